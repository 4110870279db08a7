"""Reading processes, which end with the process that reads for training, and not before it."""

from __future__ import annotations

import os
import signal
import sys
import threading


def leave_signals_to_parent(worker: int) -> None:
    """Ignore what a scheduler says to all processes of a run; for a DataLoader's `worker_init_fn`.

    They are those that the parent listens to, whose handlers a worker starts with. The parent still needs batches to
    end in order. SIGTERM ends a worker where it comes from the parent itself.
    """
    if sys.platform != "linux":  # where no scheduler sends signals
        return
    for number in signal.valid_signals() - {signal.SIGINT, signal.SIGCHLD, signal.SIGTERM}:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_parent_says_so, daemon=True).start()


def _end_when_parent_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
