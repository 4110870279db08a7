"""Graceful stop by a signal, such as a scheduler sends before it takes a machine back.

The run saves a checkpoint, prints how it will resume, and ends with an exit status that marks it as unfinished.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import pytorch_lightning as pl

from ofa.config import check_choice
from runtime.checkpoints import LastCheckpoint
from runtime.collectives import all_reduce_max
from runtime.lightning_internals import is_accumulating

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: to be tried again later
SAME_REQUEST = 5.0  # seconds in which further signals mean the first: srun passes on signals that SLURM sends as well


class Preempted(BaseException):
    """A signal has stopped the run cleanly; the text names the place. Not an Exception, which a library may catch."""


def signals_of(names: Sequence[str]) -> list[signal.Signals]:
    """The signals of these names.

    Raises:
        UserError: for an unknown name, or a signal that no process can handle.
    """
    known = [number.name for number in signal.Signals if number not in (signal.SIGKILL, signal.SIGSTOP)]
    for name in names:
        check_choice(name, "signals", known)
    return [signal.Signals[name] for name in names]


@contextmanager
def interruptible(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Inside, each of the signals raises Preempted at once."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        ignore(signals)
        raise Preempted(f"{signal.Signals(number).name}: stopped")

    before = {number: signal.signal(number, leave) for number in signals}
    try:
        yield
    except Preempted:
        ignore(signals)  # again, as Lightning has restored the handlers from before
        before = {}
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore(signals: Sequence[signal.Signals]) -> None:
    """For the end of a run, which a signal must not interrupt."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


class StopOnSignal(pl.Callback):
    """After a signal, raises Preempted: in training after the optimizer step, with a checkpoint; else after the batch.

    Processes of a run agree on the step. In an evaluation they do not wait for each other: each leaves by itself, and
    the first one ends the others. A second signal, some seconds later, ends the process at once.

    Args:
        signals: to handle.
        last: saves the checkpoint; None in an evaluation.
    """

    def __init__(self, signals: Sequence[signal.Signals], last: LastCheckpoint | None) -> None:
        self.signals, self.last = signals, last
        self.number = 0  # of the signal that this process or another has received; 0: none
        self.received_at = 0.0  # seconds
        self.saved_step: int | None = None  # of the checkpoint that was saved for the signal

    # Not earlier: Lightning installs a handler of its own, and restores all of them when it is done.
    def on_sanity_check_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for number in self.signals:
            signal.signal(number, self._receive)

    on_train_start = on_test_start = on_sanity_check_start

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() > self.received_at + SAME_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not self.number:
            self.number, self.received_at = number, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if is_accumulating(trainer):
            return
        number = all_reduce_max(self.number)
        if not number:
            return
        self.number = number
        self.last.save_after_step(trainer)
        if self.last.step == trainer.global_step:
            self.saved_step = self.last.step

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._leave_if_saved()

    def on_train_batch_start(self, *args: Any) -> None:
        self._leave_if_saved()

    def _leave_if_saved(self) -> None:
        if self.saved_step is not None:  # only now, when the logs of the step are written
            self._leave(f"stopped after step {self.saved_step}; checkpoint: {self.last.file}")

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.number:
            saved, file, step = self.last.step, self.last.file, trainer.global_step
            if not file.is_file():
                self._leave("stopped in a validation; there is no checkpoint yet")
            of_step = "" if saved == step else f" of step {saved}"
            self._leave(f"stopped in the validation after step {step}; checkpoint{of_step}: {file}")

    def on_test_batch_end(self, *args: Any) -> None:
        if self.number:
            self._leave("stopped in a test; predictions.jsonl contains the predictions so far")

    def _leave(self, where: str) -> NoReturn:
        ignore(self.signals)
        raise Preempted(f"{signal.Signals(self.number).name}: {where}")
