"""Predictions as JSON lines, written one by one, so that an interrupted run can resume."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ofa.atomic_write import atomic_write
from ofa.errors import UserError
from ofa.prediction.inputs import PredictionInput

Record = dict[str, Any]


class Journal:
    """`predictions.jsonl` of a folder: each input with its prediction or error.

    Lines are appended in any order and sorted by input at the end. A later run skips inputs that have a prediction and
    tries those with an error again.

    Args:
        settings: what predictions depend on besides the inputs; kept in predictions.settings.json.

    Raises:
        UserError: the folder holds predictions of other settings, or an invalid line.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], inputs: Sequence[PredictionInput]) -> None:
        self.file = folder / "predictions.jsonl"
        self._inputs = inputs
        folder.mkdir(parents=True, exist_ok=True)
        self._records = {_key(record): record for record in self._read()}
        kept = folder / "predictions.settings.json"
        if self._records and kept.is_file() and json.loads(kept.read_text()) != dict(settings):
            raise UserError(
                f"{folder} holds predictions of another checkpoint, vocabulary, task or precision; set output to "
                "another folder"
            )
        kept.write_text(json.dumps(dict(settings), indent=2) + "\n")

    @property
    def pending(self) -> list[tuple[int, PredictionInput]]:
        """Each input without a prediction, once, with its number."""
        pending: dict[tuple, tuple[int, PredictionInput]] = {}
        for number, item in enumerate(self._inputs):
            key = _key(_prompt(item))
            if key not in self._records or "error" in self._records[key]:
                pending.setdefault(key, (number, item))
        return list(pending.values())

    @property
    def n_failed(self) -> int:
        """The number of inputs with an error."""
        return sum("error" in self._records[_key(_prompt(item))] for item in self._inputs)

    def __enter__(self) -> Journal:
        self._stream = self.file.open("a", encoding="ascii")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stream.close()
        if kind is None:  # in the order of the inputs, then those of earlier runs
            own = [self._records[_key(_prompt(item))] for item in self._inputs]
            keys = {_key(record) for record in own}
            others = [record for key, record in self._records.items() if key not in keys]
            text = "".join(map(_line, [*own, *others]))
            atomic_write(self.file, lambda part: part.write_text(text, encoding="ascii"))

    def write(self, item: PredictionInput, prediction: Mapping[str, Any]) -> None:
        """Append a prediction, within `with`; it is in the file when this returns."""
        record = {**_prompt(item), **prediction}
        self._records[_key(record)] = record
        self._stream.write(_line(record))
        self._stream.flush()

    def _read(self) -> Iterable[Record]:
        """The records of earlier runs; an incomplete last line is removed."""
        if not self.file.is_file():
            return
        content = self.file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self.file.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
                _key(record)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(
                    f"line {number} of {self.file} is not a prediction; remove the line to predict its input again"
                ) from error
            yield record


def _prompt(item: PredictionInput) -> Record:
    return {"image": str(item.path), **{f"asked_{name}": text for name, text in item.texts.items()}}


def _key(record: Record) -> tuple[tuple[str, str], ...]:
    """What identifies the input of a record."""
    texts = [(name, text) for name, text in record.items() if name.startswith("asked_")]
    return (("image", record["image"]), *sorted(texts))


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"  # in ASCII: file names may be invalid text
