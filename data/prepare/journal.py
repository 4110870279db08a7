"""The progress of a conversion, so that an interrupted one resumes: `Journal`.

Next to `x.tsv` are `x.tsv.part` until it is complete, `x.rejected.jsonl` and `x.tsv.journal`. The journal holds the
settings and sources of the file, and the lengths of the other two files when it was last written; whatever follows in
them is cut off before they grow again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from ofa.errors import UserError


@dataclass
class Progress:
    """Samples read, rows made of them, samples left out (including expected ones) and the first of these.

    `size` and `rejected_size` are the lengths in bytes of the files of rows and of samples left out.
    """

    samples: int = 0
    rows: int = 0
    left_out: int = 0
    expected: int = 0
    first: str = ""
    size: int = 0
    rejected_size: int = 0


class Journal:
    """The files of one conversion and their progress.

    Args:
        tsv: the file to make.
        settings: all that its content depends on, except the sources.
        sources: its source files and their versions.

    Raises:
        UserError: the file or a part of it exists and was not made with these settings of these sources.
    """

    def __init__(self, tsv: Path, settings: Mapping[str, str], sources: Mapping[str, str]) -> None:
        self.tsv = tsv
        self.settings, self.sources = dict(settings), dict(sources)
        self.part = tsv.with_name(f"{tsv.name}.part")
        self.rejected = rejected_of(tsv)
        self.path = tsv.with_name(f"{tsv.name}.journal")
        self.progress = self._read()

    @property
    def is_finished(self) -> bool:
        """Whether the file is complete."""
        return self.tsv.exists() and not self.part.exists()

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """The unfinished file and that of samples left out, cut to the lengths in the journal."""
        self.tsv.parent.mkdir(parents=True, exist_ok=True)
        self.save((), self.progress)  # first, so that every part has a journal
        files = self.part.open("ab"), self.rejected.open("ab")
        for file, size in zip(files, (self.progress.size, self.progress.rejected_size), strict=True):
            file.truncate(size)
        return files

    def save(self, files: Iterable[BinaryIO], progress: Progress) -> None:
        """Written atomically, after all that it counts is on disk."""
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        unfinished = self.path.with_name(f"{self.path.name}.tmp")
        content = {"settings": self.settings, "sources": self.sources, "progress": asdict(progress)}
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(unfinished, self.path)
        self.progress = replace(progress)

    def finish(self) -> None:
        """Renames the complete file."""
        os.replace(self.part, self.tsv)
        if not self.progress.rejected_size:
            self.rejected.unlink()

    def forget(self) -> None:
        """Removes a conversion without rows, so that the next may have other settings."""
        for path in (self.part, self.path):
            path.unlink()

    def _read(self) -> Progress:
        if self.tsv.is_dir():
            raise UserError(f"--out {self.tsv} is a folder; give the name of a TSV file")
        made = self.part if self.part.exists() else self.tsv
        if not made.exists():
            return Progress()
        if not self.path.exists():
            raise UserError(f"{made} exists already, from elsewhere; delete it or choose another --out")
        try:
            content = json.loads(self.path.read_text())
            settings, sources, progress = content["settings"], content["sources"], Progress(**content["progress"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is not a journal ({error}); delete {made} to start again") from error
        remedy = f"choose another --out, or delete {made.name} to start again"
        for name in {**settings, **self.settings}:
            old, new = settings.get(name), self.settings.get(name)
            if old != new:
                raise UserError(f"{made} was started with {name} {old}, not {new}; give the same again, {remedy}")
        for path in {**sources, **self.sources}:
            if sources.get(path) != self.sources.get(path):
                raise UserError(f"{path} is not, or no longer, what {made} was started with; {remedy}")
        if made.stat().st_size < progress.size:
            raise UserError(f"{made} is shorter than in {self.path.name}; {remedy}")
        return progress


def rejected_of(tsv: Path) -> Path:
    """The file of samples that made no row, one JSON object per line: `where` and `reason`."""
    return tsv.with_suffix(".rejected.jsonl")
