"""How much memory this process has needed."""

import resource
import sys


def peak_resident_bytes() -> int:
    """The most resident memory this process has held so far, without its data workers."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
