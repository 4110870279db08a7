"""Progress of long preparations: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from runtime.collectives import rank

log = logging.getLogger(__name__)


class Every:
    """A timer that is due every so many seconds; `first` is the first interval, if it is another."""

    def __init__(self, seconds: float, first: float | None = None) -> None:
        self.seconds = seconds
        self.next = time.monotonic() + (seconds if first is None else first)

    def is_due(self) -> bool:
        """Whether the interval has passed; then the next one begins."""
        if (now := time.monotonic()) < self.next:
            return False
        self.next = now + self.seconds
        return True


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done, after a second and then every 30; yields a function that adds to it."""
    timer, done, is_bar = Every(30, first=1), 0, sys.stderr.isatty()
    options = {"unit": unit, "unit_scale": True, "delay": 1, "disable": not is_bar or rank() > 0}
    bar = tqdm(total=total, desc=description, leave=False, **options)

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        bar.update(amount)
        if not is_bar and timer.is_due():
            log.info("%s: %.0f %%", description, 100 * done / total)

    with bar:
        yield advance
