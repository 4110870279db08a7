"""Trivial baselines on demo data: a model that looks and reads has to beat guesses that do only one of both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from data.demo.scenes import COLOURS, SHAPES
from data.source import Row, RowError
from data.tsv import TSVFile

_NAMES = {*COLOURS, *SHAPES}
T = TypeVar("T")


def readable(rows: TSVFile, read: Callable[[Row], T]) -> dict[int, T]:
    """What `read` finds in each row, by the row; broken ones, which the run has reported or refused, are left out."""
    found = {}
    for i in range(len(rows)):
        with suppress(RowError):
            found[i] = read(rows[i])
    return found


def blind_answers(
    train: TSVFile, test: TSVFile, read: Callable[[Row], tuple[str, dict[str, float]]]
) -> dict[str, float]:
    """Mean worth of the most common answer, overall and for texts of the same form, which some answers show in.

    Args:
        read: a row -> its text and the worth of each answer, none where the row has no truth.
    """
    overall: Counter[str] = Counter()
    by_form: dict[str, Counter[str]] = defaultdict(Counter)
    for text, worth in readable(train, read).values():
        if worth:
            best = max(worth, key=worth.__getitem__)
            overall[best] += 1
            by_form[_form(text)][best] += 1
    scored = [(text, worth) for text, worth in readable(test, read).values() if worth]
    blind = [worth.get(overall.most_common(1)[0][0], 0.0) for _, worth in scored]
    reading = [worth.get((by_form.get(_form(text)) or overall).most_common(1)[0][0], 0.0) for text, worth in scored]
    return {"most frequent answer": sum(blind) / len(blind), "most frequent by the words": sum(reading) / len(reading)}


def _form(text: str) -> str:
    """The text without the names of colours and shapes."""
    return " ".join("_" if {word, word.strip("?").removesuffix("s")} & _NAMES else word for word in text.split())
