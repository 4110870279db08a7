"""How far a conversion has come, so that an interrupted one goes on: `Journal`.

Beside `x.tsv` stand, while it is made, `x.tsv.part`, and then and later `x.rejected.jsonl` and `x.tsv.journal`. The
journal says with which settings and of which sources the file is made, and how long the other two files were when it
was last written; what they hold behind that is cut off before they grow again.
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
    """Samples that were read, rows made of them, those left out (expected ones among them) and the first of these.

    `size` and `rejected_size` are the lengths in bytes of the files that hold the ones and the others.
    """

    samples: int = 0
    rows: int = 0
    left_out: int = 0
    expected: int = 0
    first: str = ""
    size: int = 0
    rejected_size: int = 0


class Journal:
    """The files of one conversion and how far they are.

    Args:
        tsv: the file that is made.
        settings: all that its content depends on, apart from the sources.
        sources: the files it is made of, and their versions.

    Raises:
        UserError: there is such a file already, or a part of one, that was not made with these settings of these
            sources.
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
        """Whether the whole file is there."""
        return self.tsv.exists() and not self.part.exists()

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """The unfinished file and the one of samples left out, cut to what the journal knows and ready to grow."""
        self.tsv.parent.mkdir(parents=True, exist_ok=True)
        self.save((), self.progress)  # first, so that there is never a part of which nothing is known
        files = self.part.open("ab"), self.rejected.open("ab")
        for file, size in zip(files, (self.progress.size, self.progress.rejected_size), strict=True):
            file.truncate(size)
        return files

    def save(self, files: Iterable[BinaryIO], progress: Progress) -> None:
        """Written when all that it counts is safely on disk, and in one step."""
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        unfinished = self.path.with_name(f"{self.path.name}.tmp")
        content = {"settings": self.settings, "sources": self.sources, "progress": asdict(progress)}
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(unfinished, self.path)
        self.progress = replace(progress)

    def finish(self) -> None:
        """Gives the file its name."""
        os.replace(self.part, self.tsv)
        if not self.progress.rejected_size:
            self.rejected.unlink()

    def forget(self) -> None:
        """Takes back a conversion that made no row, so that the next may have other settings."""
        for path in (self.part, self.path):
            path.unlink()

    def _read(self) -> Progress:
        if self.tsv.is_dir():
            raise UserError(f"--out {self.tsv} is a folder, expected is the name of a TSV file")
        made = self.part if self.part.exists() else self.tsv
        if not made.exists():
            return Progress()
        if not self.path.exists():
            raise UserError(f"{made} is there already, from elsewhere; delete it or choose another --out")
        try:
            content = json.loads(self.path.read_text())
            settings, sources, progress = content["settings"], content["sources"], Progress(**content["progress"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is no journal ({error}); delete {made} to start anew") from error
        remedy = f"choose another --out, or delete {made.name} to start anew"
        for name in {**settings, **self.settings}:
            old, new = settings.get(name), self.settings.get(name)
            if old != new:
                raise UserError(f"{made} was begun with {name} {old}, not {new}; say the same again, {remedy}")
        for path in {**sources, **self.sources}:
            if sources.get(path) != self.sources.get(path):
                raise UserError(f"{path} is not, or no longer, what {made} was begun with; {remedy}")
        if made.stat().st_size < progress.size:
            raise UserError(f"{made} is shorter than {self.path.name} says; {remedy}")
        return progress


def rejected_of(tsv: Path) -> Path:
    """Where the samples that made no row of a file are named, one JSON object a line: `where` and `reason`."""
    return tsv.with_suffix(".rejected.jsonl")
