"""Closed sets of answers in files: `read_answers`, `order_answers`."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofa.errors import UserError

CONVERTER = "python -m data.prepare answers"


def read_answers(path: str | Path) -> list[str]:
    """The answers of a JSON file, {"answer": index} or a plain list, by index; UserError if it is not valid."""
    path = Path(path)
    if path.suffix in (".pkl", ".pickle"):
        raise UserError(
            f"{path} is a pickle, which could execute code; convert it with `{CONVERTER} {path} "
            f"{path.with_suffix('.json')}` and give that file"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)  # lists keep duplicates
    except OSError as error:
        raise UserError(
            f"the answer file {path} cannot be read ({error.strerror}); `{CONVERTER} OLD.pkl {path}` creates it from "
            "the published pickle, answer_list=FILE names another file"
        ) from error
    except ValueError as error:
        raise UserError(f"the answer file {path} is not JSON ({error})") from error
    if isinstance(content, list) and all(isinstance(answer, str) for answer in content):
        return order_answers([(answer, index) for index, answer in enumerate(content)], path)
    return order_answers(content, path)


def order_answers(pairs: Sequence[tuple[Any, Any]], path: Path) -> list[str]:
    """The answers of (answer, index) pairs of a file, by index; UserError as of `read_answers`."""
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise UserError(f'{path} holds no answers: expected {{"answer": index}} or a list of answers')
    if not pairs:
        raise UserError(f"{path} holds no answers: it is empty")
    answer, count = Counter(answer for answer, _ in pairs).most_common(1)[0]
    if count > 1:
        raise UserError(f"{path} holds the answer {answer!r} twice")
    by_index = {index: answer for answer, index in pairs}
    try:
        return [by_index[index] for index in range(len(pairs))]
    except KeyError as error:
        raise UserError(
            f"the {len(pairs)} answers of {path} should have the indices 0 to {len(pairs) - 1}, but none has {error}"
        ) from error


def _is_pair(pair: Any) -> bool:
    """Whether it is an answer and its index, which is not a bool."""
    return isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int
