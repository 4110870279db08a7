"""Progress of long preparations: a bar on a terminal, elsewhere a log line from time to time."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from runtime.collectives import rank

log = logging.getLogger(__name__)

INTERVAL = 30.0  # seconds between two log lines


class Every:
    """A timer that is due every so many seconds.

    Args:
        seconds: the interval.
        first: seconds until it is due for the first time; None: an interval.
    """

    def __init__(self, seconds: float, first: float | None = None) -> None:
        self.seconds = seconds
        self.next = time.monotonic() + (seconds if first is None else first)

    def is_due(self) -> bool:
        """Whether the interval has passed; then the next one begins."""
        now = time.monotonic()
        if now < self.next:
            return False
        self.next = now + self.seconds
        return True


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Show how much of `total` is done; yields a function that takes what was done since its last call.

    Work of less than a second shows nothing.
    """
    if sys.stderr.isatty():
        is_silent = rank() > 0
        with tqdm(
            total=total, desc=description, unit=unit, unit_scale=True, delay=1, leave=False, disable=is_silent
        ) as bar:
            yield bar.update
        return
    done, timer = 0, Every(INTERVAL, first=1.0)

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        if timer.is_due():
            log.info("%s: %.0f %%", description, 100 * done / total)

    yield advance
