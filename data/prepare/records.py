"""What travels from a raw data set to its TSV files: `Conversion`, a file to be made of `Record`s."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ofa.boxes import Box


@dataclass(frozen=True)
class Record:
    """One sample, not yet looked at.

    Attributes:
        place: where it stands in its source, as messages say it: "line 7 of photos.csv".
        values: the columns it has something to say in, apart from image and box.
        image: the encoded file, or where it lies.
        box: in pixels of the image, where the layout has one.
    """

    place: str
    values: Mapping[str, str]
    image: Path | bytes
    box: Box | None = None


@dataclass(frozen=True)
class LeftOut:
    """A sample that makes no row, and why; `expected` where the data set is known to hold such."""

    place: str
    reason: str
    expected: bool = False


Sample = Record | LeftOut


@dataclass(frozen=True)
class Conversion:
    """One TSV file to be made.

    Attributes:
        file: where.
        layout: name of its columns in LAYOUTS.
        sources: the files it is made of, apart from images; when one changes, what was written is no longer of use.
        samples: reads them, always in the same order.
        total: number of samples, where it is known.
    """

    file: Path
    layout: str
    sources: tuple[Path, ...]
    samples: Callable[[], Iterable[Sample]]
    total: int | None = None


class Source(Protocol):
    """A kind of raw data: its command's arguments, and what is made of them."""

    @property
    def help(self) -> str:
        """One line about it."""

    @property
    def makes(self) -> str:
        """What --out names: FILE or FOLDER."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Those of this source alone."""

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        """The files to be made, one after the other; each is complete when the next is asked for.

        Raises:
            UserError: the source is not as expected.
        """
