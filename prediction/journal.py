"""Answers as JSON lines, written as they come, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ofa.errors import UserError
from prediction.questions import PictureQuestion


class Journal:
    """`predictions.jsonl` of a folder: a line for each question, in their order.

    Args:
        folder: of the run; made where it is missing.
        settings: what the answers depend on beside the questions; kept in predictions.settings.json.
        questions: all of the run.

    Raises:
        UserError: the folder holds answers of other settings or to other questions.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], questions: Sequence[PictureQuestion]) -> None:
        self.file = folder / "predictions.jsonl"
        self._questions = questions
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "predictions.settings.json"
        if self.file.is_file() and kept.is_file() and json.loads(kept.read_text()) != dict(settings):
            raise UserError(f"{folder} holds answers of another checkpoint, task or precision; set output= to another")
        kept.write_text(json.dumps(dict(settings), indent=2) + "\n")
        records = self._whole_records()
        self.n_answered = len(records)
        self.n_errors = sum("error" in record for record in records)

    def __enter__(self) -> Journal:
        self._stream = self.file.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()

    def write(self, answer: Mapping[str, Any]) -> None:
        """The answer to the next question."""
        record = {**_asked(self._questions[self.n_answered]), **answer}
        self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._stream.flush()
        self.n_answered += 1
        self.n_errors += "error" in answer

    def _whole_records(self) -> list[dict[str, Any]]:
        """Those written before, once they are known to answer these questions; a half line at the end is cut off."""
        if not self.file.is_file():
            return []
        content = self.file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self.file.open("r+b") as file:
                file.truncate(len(whole))
        records = [json.loads(line) for line in whole.decode().splitlines()]
        for number, record in enumerate(records):
            asked = _asked(self._questions[number]) if number < len(self._questions) else None
            if asked is None or {name: record.get(name) for name in asked} != asked:
                raise UserError(
                    f"line {number + 1} of {self.file} answers another question than input= has there; "
                    "set output= to another folder"
                )
        return records


def _asked(question: PictureQuestion) -> dict[str, str]:
    return {"image": str(question.path), **{f"asked_{name}": text for name, text in question.texts.items()}}
