"""Imports of every command, for the process from which runs are forked.

What they register to run at exit, such as deleting wandb's temporary folders, runs in that process and not in the runs.
"""

import atexit
import os
import weakref
from unittest.mock import patch


class FinalizeBeforeExit(weakref.finalize):
    """A finalizer that does not run at exit."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.atexit = False


def register_here(function, *args, register=atexit.register, **kwargs):
    """`atexit.register` for a function that forked processes do not run."""
    process = os.getpid()
    register(lambda: os.getpid() == process and function(*args, **kwargs))
    return function


weakref.finalize(os, id, os).detach()  # the first finalizer registers what runs those of every process at exit

with patch("atexit.register", register_here), patch("weakref.finalize", FinalizeBeforeExit):
    import runtime.command_line  # noqa: F401
    import tracking.report  # noqa: F401
    import training.build  # noqa: F401
    import training.trainer  # noqa: F401
