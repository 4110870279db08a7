"""Image files on their way into a row: whole and checked, and no larger than asked: `read_picture`."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from data.images import decode_image
from data.tsv import Row


@dataclass(frozen=True)
class Picture:
    """Base64 of the encoded file, its size in pixels, and what x and y of a box are multiplied by to fit it."""

    encoded: str
    width: int
    height: int
    ratio: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Bounds:
    """How large a picture may be.

    Attributes:
        max_side: pixels of the longer side; larger ones are made smaller and become JPEGs. None: all stay as they are.
        quality: of these JPEGs, 1 to 100.
    """

    max_side: int | None = None
    quality: int = 90


def read_picture(image: Path | bytes, bounds: Bounds, where: Row) -> Picture:
    """The picture, byte for byte unless it is too large.

    Raises:
        RowError: the file cannot be read or holds no picture that training could read.
    """
    if isinstance(image, bytes):
        return _check(image, bounds, where)
    try:
        return _of_file(image, bounds, Path(where.source))
    except OSError as error:
        raise where.error(f"the image {image} cannot be read ({error.strerror})") from error


@lru_cache(maxsize=4)  # several rows about one image follow each other
def _of_file(path: Path, bounds: Bounds, tsv: Path) -> Picture:
    return _check(path.read_bytes(), bounds, Row({}, tsv, 0, note=f" ({path})"))


def _check(encoded: bytes, bounds: Bounds, where: Row) -> Picture:
    text = base64.b64encode(encoded).decode()
    image = decode_image(text, where)
    if bounds.max_side is None or max(image.size) <= bounds.max_side:
        return Picture(text, *image.size)
    scale = bounds.max_side / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(file, "JPEG", quality=bounds.quality)
    ratio = width / image.width, height / image.height
    return Picture(base64.b64encode(file.getvalue()).decode(), width, height, ratio)
