"""A run of a sweep as a command of its own: all its processes are new, and whatever ends them leaves the sweep alone.

In a sweep of runs of several processes the sweeping process takes part in none of them: a group of processes that has
lost one cannot be relied on to end.
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

OUTCOME = "OFA_OUTCOME"  # the environment variable that names the file in which such a run tells what came of it
FILE_STATUS = 74  # EX_IOERR of sysexits.h: a file has ended the run, as where the disk is full, and would end the next


class RunFailed(Exception):
    """A run has failed, and said itself why."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run: the value by which a sweep compares it, or where a signal has stopped it."""

    value: float | None = None
    stopped: str | None = None

    def tell(self, file: str) -> None:
        """Have the sweep know it."""
        atomic_write(Path(file), lambda part: part.write_text(json.dumps(asdict(self))))


def subprocess_run(command: Sequence[str], signals: Sequence[signal.Signals]) -> float | None:
    """Do a run by a command of its own, and return its value.

    Args:
        command: starts it.
        signals: what of these comes is passed on to it.

    Raises:
        RunFailed: it has failed by a mistake.
        UserError: it was ended from outside, and could not say why.
        StoppedBySignal: it has ended in order, or would have.
        SystemExit: it has said what the next run would meet, too.
    """
    came: list[int] = []
    processes: list[subprocess.Popen] = []  # that one, once it is there

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for process in processes:
            process.send_signal(number)

    with tempfile.TemporaryDirectory(prefix="ofa_") as folder:
        file = Path(folder, "outcome.json")
        before = {number: signal.signal(number, pass_on) for number in signals}
        try:
            process = subprocess.Popen(command, env={**os.environ, OUTCOME: str(file), PARENT: str(os.getpid())})
            processes.append(process)
            for number in came:
                process.send_signal(number)
            status = process.wait()
        except BaseException:  # Ctrl-C, which the processes of the run have got, too
            for process in processes:
                process.kill()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        outcome = Outcome(**json.loads(file.read_text())) if file.is_file() else Outcome()
    if came or status == EXIT_STATUS:
        raise Preempted(outcome.stopped or "a signal stopped this run")
    if status == FILE_STATUS:
        sys.exit(status)
    if status < 0:
        raise UserError(f"the run was ended by signal {-status}; signal 9 often says that memory is short")
    if status:
        raise RunFailed("its own words stand above")
    return outcome.value
