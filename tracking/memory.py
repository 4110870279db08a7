"""Peak memory of this process."""

import resource
import sys


def peak_resident_bytes() -> int:
    """The peak resident memory of this process, without its data workers."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
