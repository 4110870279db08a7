"""What stands in the columns of each task's files, for those who write and inspect them: `LAYOUTS`, `check_columns`.

The tasks themselves say which columns they read; a test holds the two together.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from data.answers import parse_answers
from data.boxes import clip_box, parse_box
from data.tsv import Row
from ofa.config import did_you_mean

JOINT = "&&"  # between the captions, answers or objects of one cell
LABELS = ("entailment", "neutral", "contradiction")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Layout:
    """What a file holds.

    Attributes:
        columns: in their order.
        needed: those that say something in every row; others may be empty.
        truth: what is learnt and scored; where it is empty, a row can be neither.
    """

    columns: tuple[str, ...]
    needed: tuple[str, ...]
    truth: str


LAYOUTS = {
    "refcoco": Layout(("uniq_id", "image_id", "text", "box", "image"), ("text", "box"), "box"),
    "caption": Layout(("uniq_id", "image_id", "caption", "objects", "image"), (), "caption"),
    "snli_ve": Layout(
        ("uniq_id", "image_id", "image", "hypothesis", "caption", "label"), ("hypothesis",), truth="label"
    ),
    "vqa": Layout(("uniq_id", "image_id", "question", "answers", "objects", "image"), ("question",), "answers"),
}


def check_columns(row: Row, width: int, height: int) -> tuple[str, ...]:
    """Notes on what training will repair in the row's columns, beside an image of that many pixels.

    Raises:
        RowError: training would refuse one of them.
    """
    notes = (_CHECKS[name](name, row, width, height) for name in row.values if name in _CHECKS)
    return tuple(note for note in notes if note)


def _check_words(name: str, row: Row, width: int, height: int) -> None:
    if not row.values[name].translate(_PUNCTUATION).strip():
        raise row.error(f"the {name} is empty")


def _check_box(name: str, row: Row, width: int, height: int) -> str | None:
    return clip_box(parse_box(row.values[name], row), width, height, row)[1]


def _check_label(name: str, row: Row, width: int, height: int) -> None:
    label = row.values[name].strip()
    if label not in LABELS:
        hint = did_you_mean(label, LABELS)
        raise row.error(f"the label {label!r} is not one of {', '.join(LABELS)}{hint}")


def _check_answers(name: str, row: Row, width: int, height: int) -> None:
    if not parse_answers(row):
        raise row.error("the question has no answer")


_CHECKS: dict[str, Callable[[str, Row, int, int], str | None]] = {
    "uniq_id": _check_words,
    "text": _check_words,
    "caption": _check_words,
    "hypothesis": _check_words,
    "question": _check_words,
    "box": _check_box,
    "label": _check_label,
    "answers": _check_answers,
}


def join_cell(parts: Iterable[str]) -> str:
    """Several texts as one cell; the joint itself cannot stand in a text, where it becomes a single `&`."""
    return JOINT.join(re.sub("&{2,}", "&", part).strip() for part in parts)
