"""Progress of long preparations without a terminal."""

import logging
from types import SimpleNamespace

from runtime.progress import progress


def test_long_work_is_logged_after_a_second_and_then_every_half_minute(monkeypatch, caplog):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("runtime.progress.time", clock)
    with caplog.at_level(logging.INFO), progress("indexing a.tsv", 100, "B") as advance:
        for _ in range(10):
            clock.now += 6.5
            advance(10)
    assert caplog.messages == [f"indexing a.tsv: {percent} %" for percent in (10, 60)]


def test_short_work_logs_nothing(caplog):
    with caplog.at_level(logging.INFO), progress("indexing a.tsv", 100, "B") as advance:
        advance(100)
    assert not caplog.messages
