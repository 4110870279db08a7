"""The columns of a task's files and their checks: `Layout`; `find_task` finds the class of a task that declares one."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_class

from data.cells import SEPARATOR, clip_box, parse_answers, parse_box
from data.source import Row
from ofa.config import did_you_mean
from ofa.errors import UserError
from ofa.processors.entailment import ANSWERS

Check = Callable[[str, Row, int, int], str | None]
"""A column's name, its row, width and height of the image -> a note where training repairs it; RowError where not."""

CONFIGS = Path(__file__).parent.parent / "configs"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def has_words(name: str, row: Row, width: int, height: int) -> None:
    """Refuses a cell of spaces and punctuation."""
    if not row.values[name].translate(_PUNCTUATION).strip():
        raise row.error(f"the {name} is empty")


def has_box(name: str, row: Row, width: int, height: int) -> str | None:
    """Refuses what is not a box in the image."""
    return clip_box(parse_box(row.values[name], row), width, height, row)[1]


def has_answers(name: str, row: Row, width: int, height: int) -> None:
    """Refuses a cell without a well-formed answer."""
    if not parse_answers(row):
        raise row.error("the question has no answer")


@dataclass(frozen=True)
class OneOf:
    """Refuses what is not one of the labels."""

    labels: tuple[str, ...]

    def __call__(self, name: str, row: Row, width: int, height: int) -> None:
        label = row.values[name].strip()
        if label not in self.labels:
            hint = did_you_mean(label, self.labels)
            raise row.error(f"the {name} {label!r} is not one of {', '.join(self.labels)}{hint}")


@dataclass(frozen=True)
class Layout:
    """The columns of a file."""

    columns: tuple[str, ...]  # from left to right; uniq_id and image among them
    truth: str  # the column that is trained on and scored; a row without it can be neither
    needed: tuple[str, ...] = ()  # columns that are never empty; others may be
    checks: Mapping[str, Check] = field(default_factory=dict)  # of columns that are not empty

    def check(self, row: Row, width: int, height: int) -> tuple[str, ...]:
        """Notes on what training will repair in a row with such an image; RowError if it would refuse a cell."""
        checks = {"uniq_id": has_words, **self.checks}
        notes = (checks[name](name, row, width, height) for name in row.values if name in checks)
        return tuple(note for note in notes if note)


REFERRING = Layout(
    ("uniq_id", "image_id", "text", "box", "image"), "box", ("text", "box"), {"text": has_words, "box": has_box}
)
CAPTIONS = Layout(
    ("uniq_id", "image_id", "caption", "objects", "image"), truth="caption", checks={"caption": has_words}
)
ENTAILMENT = Layout(
    ("uniq_id", "image_id", "image", "hypothesis", "caption", "label"),
    truth="label",
    needed=("hypothesis",),
    checks={"hypothesis": has_words, "caption": has_words, "label": OneOf(tuple(ANSWERS))},
)
QUESTIONS = Layout(
    ("uniq_id", "image_id", "question", "answers", "objects", "image"),
    truth="answers",
    needed=("question",),
    checks={"question": has_words, "answers": has_answers},
)


def task_names(config_dir: Path | None = None) -> list[str]:
    """The names of all tasks in configs/task, and in DIR/task of a folder of one's own."""
    return sorted({file.stem for folder in _folders(config_dir) for file in folder.glob("*.yaml")})


def find_task(name: str, config_dir: Path | None = None) -> Any:
    """The class that `_target_` of a task's configuration names, its own or that of its defaults.

    Raises:
        UserError: there is none, or it cannot be imported.
    """
    for folder in _folders(config_dir):
        if (folder / f"{name}.yaml").is_file():
            content = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
            if "_target_" not in content:
                parents = [entry for entry in content.get("defaults", ()) if isinstance(entry, str)]
                return next(find_task(parent, config_dir) for parent in parents if parent != "_self_")
            return load_task(content["_target_"])
    names = task_names(config_dir)
    raise UserError(f"there is no task {name!r}, only {', '.join(names)}{did_you_mean(name, names)}; see --config-dir")


def load_task(target: str) -> Any:
    """The class of a task by its dotted path; UserError where it cannot be imported."""
    try:
        return get_class(target)
    except Exception as error:  # whatever importing a user's module raises
        reason = " ".join(str(error).split())
        raise UserError(f"{target} cannot be imported ({reason}); put its folder on PYTHONPATH") from error


def layout_of(name: str, config_dir: Path | None = None) -> Layout:
    """The layout that a task's class declares; UserError if there is no such task, or it declares none."""
    task = find_task(name, config_dir)
    if task.layout is None:
        raise UserError(f"task={name} declares no layout of its files: set `layout` in the class {task.__name__}")
    return task.layout


def _folders(config_dir: Path | None) -> list[Path]:
    return [root / "task" for root in (config_dir, CONFIGS) if root is not None]


def join_cell(parts: Iterable[str]) -> str:
    """Several texts as one cell; the separator cannot occur in a text, where it becomes a single `&`."""
    return SEPARATOR.join(re.sub("&{2,}", "&", part).strip() for part in parts)
