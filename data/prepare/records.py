"""Raw data sets: `Source`, whose `Conversion`s are files made of `Record`s, and readers of their folders and JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from data.layout import Layout
from ofa.errors import UserError
from ofa.images import Box

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Record:
    """One sample, not yet checked.

    Attributes:
        place: its place in the source, as in messages: "line 7 of photos.csv".
        values: its columns, except image and box.
        image: the encoded file, or its path.
        box: in pixels of the image, where the layout has one.
    """

    place: str
    values: Mapping[str, str]
    image: Path | bytes
    box: Box | None = None


@dataclass(frozen=True)
class LeftOut:
    """A sample that makes no row, and why; `expected` where the data set is known to contain such samples."""

    place: str
    reason: str
    expected: bool = False


Sample = Record | LeftOut


@dataclass(frozen=True)
class Conversion:
    """One TSV file to make.

    Attributes:
        file: its path.
        layout: its columns.
        sources: the files it is made of, except images; when one changes, what was written is no longer valid.
        samples: reads them, always in the same order.
        total: number of samples, where known.
    """

    file: Path
    layout: Layout
    sources: tuple[Path, ...]
    samples: Callable[[], Iterable[Sample]]
    total: int | None = None


class Source(Protocol):
    """A kind of raw data: the arguments of its command, and the files made of it."""

    @property
    def help(self) -> str:
        """One line of description."""

    @property
    def makes(self) -> str:
        """The kind of --out: FILE or FOLDER."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Those of this source only."""

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        """The files to make, one after the other; each is complete when the next is requested.

        Raises:
            UserError: the source is not as expected.
        """


def find_folder(root: Path, name: str, content: str) -> Path:
    """`root/name`, or `root` itself where it has no such folder.

    Raises:
        UserError: `root` is not a folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give one that holds {name}/ with {content}")
    return root / name if (root / name).is_dir() else root


def require_file(path: Path, content: str) -> Path:
    """The path, if there is such a file.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; it should be {content}")
    return path


def read_json(path: Path) -> Any:
    """The content of a file.

    Raises:
        UserError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); is the file complete?") from error


def of_kind(kind: type[Kind], content: Any, path: Path, expected: str) -> Kind:
    """The content of a file, if it is of the kind it should be.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(content, kind):
        raise UserError(f"{path} holds a {type(content).__name__}, not {expected}")
    return content
