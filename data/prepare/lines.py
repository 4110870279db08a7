"""From a sample to a line of a TSV file, checked as training will read it: `make_line`, `read_image`."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from data.cells import decode_image
from data.layout import Layout
from data.prepare.records import LeftOut, Sample
from data.source import Row, RowError
from ofa.images import Box


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
    """Base64 of the encoded file, its size in pixels, and what x and y of a box are multiplied by."""

    encoded: str
    width: int
    height: int
    ratio: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Bounds:
    """The largest size of an image.

    Attributes:
        max_side: pixels of the longer side; larger images are resized to it and become JPEGs. None: all are kept.
        quality: of these JPEGs, 1 to 100.
    """

    max_side: int | None = None
    quality: int = 90


def read_image(image: Path | bytes, bounds: Bounds, where: Row) -> EncodedImage:
    """The image, byte for byte unless it is too large.

    Raises:
        RowError: the file cannot be read or is not an image that training can read.
    """
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
