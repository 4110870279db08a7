"""Answers as JSON lines, written as they come, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ofa.atomic_write import atomic_write
from ofa.errors import UserError
from prediction.questions import PictureQuestion

Record = dict[str, Any]


class Journal:
    """`predictions.jsonl` of a folder: each question with its answer, or with the reason why there is none.

    Lines are added as answers come; in the end they are put in the order of the questions. What was answered before is
    not asked again, what could not be answered is.

    Args:
        folder: of the run; made where it is missing.
        settings: what the answers depend on beside the questions; kept in predictions.settings.json.
        questions: all of the run.

    Raises:
        UserError: the folder holds answers of other settings, or a line that is no answer.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], questions: Sequence[PictureQuestion]) -> None:
        self.file = folder / "predictions.jsonl"
        self._questions = questions
        folder.mkdir(parents=True, exist_ok=True)
        self._records = {_key(record): record for record in self._read()}
        kept = folder / "predictions.settings.json"
        if self._records and kept.is_file() and json.loads(kept.read_text()) != dict(settings):
            raise UserError(
                f"{folder} holds answers of another checkpoint, vocabulary, task or precision; set output= to another"
            )
        kept.write_text(json.dumps(dict(settings), indent=2) + "\n")

    @property
    def waiting(self) -> list[tuple[int, PictureQuestion]]:
        """Each question without an answer, once, with its number."""
        waiting: dict[tuple, tuple[int, PictureQuestion]] = {}
        for number, question in enumerate(self._questions):
            key = _key(_asked(question))
            if key not in self._records or "error" in self._records[key]:
                waiting.setdefault(key, (number, question))
        return list(waiting.values())

    @property
    def n_failed(self) -> int:
        """Of the questions, those that could not be answered."""
        return sum("error" in self._records[_key(_asked(question))] for question in self._questions)

    def __enter__(self) -> Journal:
        self._stream = self.file.open("a", encoding="ascii")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()
        if kind is None:
            self._put_in_order()

    def write(self, question: PictureQuestion, answer: Mapping[str, Any]) -> None:
        """Adds an answer, within `with`; it is in the file when this returns."""
        record = {**_asked(question), **answer}
        self._records[_key(record)] = record
        self._stream.write(_line(record))
        self._stream.flush()

    def _put_in_order(self) -> None:
        """The answers in the order of the questions, then those to questions of earlier runs."""
        asked = [self._records[_key(_asked(question))] for question in self._questions]
        keys = {_key(record) for record in asked}
        others = [record for key, record in self._records.items() if key not in keys]
        text = "".join(map(_line, [*asked, *others]))
        atomic_write(self.file, lambda part: part.write_text(text, encoding="ascii"))

    def _read(self) -> Iterable[Record]:
        """The records written before; a half line at the end is cut off."""
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
                    f"line {number} of {self.file} is not an answer; remove the line, and its question is asked again"
                ) from error
            yield record


def _asked(question: PictureQuestion) -> Record:
    return {"image": str(question.path), **{f"asked_{name}": text for name, text in question.texts.items()}}


def _key(record: Record) -> tuple[tuple[str, str], ...]:
    """What a record was asked, whatever the answer."""
    asked = [(name, text) for name, text in record.items() if name.startswith("asked_")]
    return (("image", record["image"]), *sorted(asked))


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"  # in ASCII: names of files need not be valid text
