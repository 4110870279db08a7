"""A run of a sweep as a command of its own: whatever ends its processes does not end the sweep.

In a sweep of runs of several processes, the process of the sweep takes part in none of them: a process group that has
lost a member may never end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from ofa.atomic_write import atomic_write
from ofa.errors import UserError
from runtime.launching import PARENT
from runtime.preemption import EXIT_STATUS, Preempted

OUTCOME = "OFA_OUTCOME"  # environment variable: the file to which such a run writes its outcome
FILE_STATUS = 74  # EX_IOERR of sysexits.h: a file error such as a full disk, which the next run would meet as well


class RunFailed(Exception):
    """A run has failed, and has printed its error itself."""


@dataclass(frozen=True)
class Outcome:
    """The value of a run, by which a sweep compares it, or the place where a signal has stopped it."""

    value: float | None = None
    stopped: str | None = None

    def write(self, file: str) -> None:
        """Write the file that the sweep reads."""
        atomic_write(Path(file), lambda part: part.write_text(json.dumps(asdict(self))))


def subprocess_run(command: Sequence[str], signals: Sequence[signal.Signals]) -> float | None:
    """Do a run by a command, to which signals are passed on, and return its value.

    Raises:
        RunFailed: it has failed, and printed its error.
        UserError: it was killed, and could not print an error.
        Preempted: a signal has stopped it.
        SystemExit: it has failed with a file error, which the next run would meet as well.
    """
    received: list[int] = []
    processes: list[subprocess.Popen] = []  # that of the command, once it is started

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    with tempfile.TemporaryDirectory(prefix="ofa_") as folder:
        file = Path(folder, "outcome.json")
        before = {number: signal.signal(number, pass_on) for number in signals}
        try:
            process = subprocess.Popen(command, env={**os.environ, OUTCOME: str(file), PARENT: str(os.getpid())})
            processes.append(process)
            for number in received:
                process.send_signal(number)
            status = process.wait()
        except BaseException:  # Ctrl-C, which the processes of the run have received as well
            for process in processes:
                process.kill()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        outcome = Outcome(**json.loads(file.read_text())) if file.is_file() else Outcome()
    if received or status == EXIT_STATUS:
        raise Preempted(outcome.stopped or "a signal stopped this run")
    if status == FILE_STATUS:
        sys.exit(status)
    if status < 0:
        raise UserError(f"the run was killed by signal {-status}; signal 9 often means that memory is short")
    if status:
        raise RunFailed("its error is above")
    return outcome.value
