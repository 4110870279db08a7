"""Raw data sets: `Source`, whose `Conversion`s are files made of `Record`s; their input files and their lines."""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from data.cells import decode_image
from data.layout import Layout
from data.source import Row, RowError
from ofa.errors import UserError
from ofa.images import Box

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Record:
    """One sample, not yet checked."""

    place: str  # in the source, as in messages: "line 7 of photos.csv"
    values: Mapping[str, str]  # its columns, except image and box
    image: Path | bytes  # the encoded file, or its path
    box: Box | None = None  # in pixels of the image, where the layout has one


@dataclass(frozen=True)
class LeftOut:
    """A sample that makes no row, and why; `expected` where the data set is known to contain such samples."""

    place: str
    reason: str
    expected: bool = False


Sample = Record | LeftOut


@dataclass(frozen=True)
class Conversion:
    """One TSV file to make."""

    file: Path
    layout: Layout
    sources: tuple[Path, ...]  # except images; when one changes, what was written is no longer valid
    samples: Callable[[], Iterable[Sample]]  # reads them, always in the same order
    total: int | None = None  # number of samples, where known


class Source(Protocol):
    """A kind of raw data: the arguments of its command, and the files made of it."""

    @property
    def help(self) -> str: ...

    @property
    def makes(self) -> str:
        """The kind of --out: FILE or FOLDER."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        """The files to make, one after the other; each is complete when the next is requested."""


def find_folder(root: Path, name: str, content: str) -> Path:
    """`root/name`, or `root` itself where it has no such folder; UserError if `root` is not a folder."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give one that holds {name}/ with {content}")
    return root / name if (root / name).is_dir() else root


def require_file(path: Path, content: str) -> Path:
    """The path; UserError if there is no such file."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; it should be {content}")
    return path


def read_json(path: Path) -> Any:
    """The content of a file; UserError if it cannot be read or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); is the file complete?") from error


def of_kind(kind: type[Kind], content: Any, path: Path, expected: str) -> Kind:
    """The content of a file, if it is of the kind it should be; UserError if it is something else."""
    if not isinstance(content, kind):
        raise UserError(f"{path} holds a {type(content).__name__}, not {expected}")
    return content


def make_line(sample: Sample, layout: Layout, tsv: Path, bounds: Bounds) -> bytes | LeftOut:
    """The encoded line with its end, or why there is none."""
    if isinstance(sample, LeftOut):
        return sample
    cells = {name: re.sub(r"[\t\r\n]+", " ", text).strip() for name, text in sample.values.items()}
    where = Row(cells, tsv, 0)  # not a line yet; of errors only the message is used
    try:
        image = read_image(sample.image, bounds, where)
        if sample.box is not None:
            cells["box"] = write_box(sample.box, image.ratio)
        layout.check(where, image.width, image.height)
    except RowError as error:
        return LeftOut(sample.place, error.message)
    cells["image"] = image.encoded
    line = "\t".join(cells.get(name, "") for name in layout.columns)
    try:
        return f"{line}\n".encode()
    except UnicodeEncodeError:  # JSON may contain half of a surrogate pair
        return LeftOut(sample.place, "the text has half of a surrogate pair, which is not a character in UTF-8")


def write_box(box: Box, ratio: tuple[float, float]) -> str:
    """`x0,y0,x1,y1` in hundredths of a pixel, enough for any image, and without the noise of float sums."""
    scaled = (value * ratio[i % 2] for i, value in enumerate(box))
    return ",".join(str(round(float(value), 2)) for value in scaled)


@dataclass(frozen=True)
class EncodedImage:
    """Base64 of an image file, and its size in pixels."""

    encoded: str
    width: int
    height: int
    ratio: tuple[float, float] = (1.0, 1.0)  # what x and y of a box are multiplied by


@dataclass(frozen=True)
class Bounds:
    """The largest size of an image."""

    max_side: int | None = None  # pixels; a longer side is resized to it, in a JPEG. None: all images are kept
    quality: int = 90  # of these JPEGs, 1 to 100


def read_image(image: Path | bytes, bounds: Bounds, where: Row) -> EncodedImage:
    """The image, byte for byte unless it is too large; RowError if training could not read it."""
    if isinstance(image, bytes):
        return _check(image, bounds, where)
    try:
        return _read_file(image, bounds, Path(where.source))
    except OSError as error:
        raise where.error(f"the image {image} cannot be read ({error.strerror})") from error


@lru_cache(maxsize=4)  # several rows about one image follow each other
def _read_file(path: Path, bounds: Bounds, tsv: Path) -> EncodedImage:
    return _check(path.read_bytes(), bounds, Row({}, tsv, 0, note=f" ({path})"))


def _check(encoded: bytes, bounds: Bounds, where: Row) -> EncodedImage:
    text = base64.b64encode(encoded).decode()
    image = decode_image(text, where)
    if bounds.max_side is None or max(image.size) <= bounds.max_side:
        return EncodedImage(text, *image.size)
    scale = bounds.max_side / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(file, "JPEG", quality=bounds.quality)
    ratio = width / image.width, height / image.height
    return EncodedImage(base64.b64encode(file.getvalue()).decode(), width, height, ratio)
