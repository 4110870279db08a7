"""Ending in order when a signal asks for it: a scheduler sends one before it takes a machine back.

What was learnt is kept, the run says how it goes on, and its exit status tells scripts that it is not finished.
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

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: to be tried again later
ONE_REQUEST = 5.0  # seconds in which further signals mean the first: srun passes on what SLURM tells a process itself


class Preempted(BaseException):
    """A signal has ended the run, in order; the text says where it stopped. Not an error, that a library may catch."""


def signals_of(names: Sequence[str]) -> list[signal.Signals]:
    """The signals of these names.

    Raises:
        UserError: for a name that is none, or that of a signal which no process can listen to.
    """
    known = [number.name for number in signal.Signals if number not in (signal.SIGKILL, signal.SIGSTOP)]
    for name in names:
        check_choice(name, "signals", known)
    return [signal.Signals[name] for name in names]


@contextmanager
def interruptible(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Where one of the signals comes, what stands inside is left at once, by StoppedBySignal."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        ignore(signals)
        raise Preempted(f"{signal.Signals(number).name}: stopped")

    before = {number: signal.signal(number, leave) for number in signals}
    try:
        yield
    except Preempted:
        ignore(signals)  # again, for Lightning has put back the handlers of before
        raise
    except BaseException:
        _restore(before)
        raise
    else:
        _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ignore(signals: Sequence[signal.Signals]) -> None:
    """For the last steps of a run, which a signal shall not stop."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


class StopOnSignal(pl.Callback):
    """Lets the step under way finish where a signal comes, and then leaves, by StoppedBySignal.

    In training it waits for the end of the update, and saves it. In a validation it waits for the end of the batch, and
    the last checkpoint stays as it is.

    Several processes agree on the update. In an evaluation they do not wait for each other: each leaves by itself, and
    the first one ends the others. A second signal, some seconds later, ends the process at once.

    Args:
        signals: that are listened to.
        last: saves the checkpoint; None: there is only an evaluation.
    """

    def __init__(self, signals: Sequence[signal.Signals], last: LastCheckpoint | None) -> None:
        self.signals, self.last = signals, last
        self.number = 0  # of the signal that came, to this process or another; 0: none
        self.came = 0.0  # when, in seconds
        self.update: int | None = None  # behind which the checkpoint was saved

    # Not earlier, for Lightning puts a handler of its own in place, and takes all of them back when it is done.
    def on_sanity_check_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._listen()

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._listen()

    def _listen(self) -> None:
        for number in self.signals:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() > self.came + ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not self.number:
            self.number, self.came = number, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        number = all_reduce_max(self.number)
        if not number:
            return
        self.number = number
        self.last.save_after_step(trainer)
        if self.last.step == trainer.global_step:
            self.update = self.last.step

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.update is not None and not trainer.sanity_checking:
            self._leave(f"stopped behind update {self.update}, which {self.last.file} holds")

    def on_train_batch_start(self, *args: Any) -> None:
        if self.update is not None:  # only now, when what the update logs is written
            self._leave(f"stopped behind update {self.update}, which {self.last.file} holds")

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.number:
            step, file, update = self.last.step, self.last.file, trainer.global_step
            if not file.is_file():
                self._leave("stopped in a validation, before anything was saved")
            if step == update:
                self._leave(f"stopped in a validation behind update {update}, which {file} holds")
            self._leave(f"stopped in a validation behind update {update}; {file} holds update {step}")

    def on_test_batch_end(self, *args: Any) -> None:
        if self.number:
            self._leave("stopped in a test; predictions.jsonl holds its answers so far")

    def _leave(self, where: str) -> NoReturn:
        ignore(self.signals)
        raise Preempted(f"{signal.Signals(self.number).name}: {where}")
