"""The cells of a row: `decode_image`, `parse_box`, `clip_box`, `parse_answers`, `split_cell`."""

from __future__ import annotations

import base64
import math

from PIL import Image

from data.source import Row
from ofa.images import Box, ImageError, has_area, open_image

SEPARATOR = "&&"  # between the captions, answers or objects of one cell
URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
CLIPPED = "box clipped to the image"


def split_cell(text: str) -> list[str]:
    """The entries of a cell joined by `&&`, stripped; empty ones are left out."""
    return [entry for part in text.split(SEPARATOR) if (entry := part.strip())]


def decode_image(text: str | bytes, where: Row) -> Image.Image:
    """The RGB image in `text`: bytes of a file, or base64 of them in the standard or URL-safe alphabet, padded or not.

    Raises:
        RowError: for base64 or an image that does not decode completely, and for one of too many pixels.
    """
    encoded = text if isinstance(text, bytes) else _decode_base64(text, where)
    try:
        return open_image(encoded)
    except ImageError as error:
        raise where.error(f"the image cannot be used: {error}") from error


def _decode_base64(text: str, where: Row) -> bytes:
    if not text.strip():
        raise where.error("the image column is empty")
    try:
        symbols = text.strip().rstrip("=").encode("ascii").translate(URL_SAFE_TO_STANDARD)
        return base64.b64decode(symbols + b"=" * (-len(symbols) % 4), validate=True)
    except ValueError as error:  # binascii.Error and UnicodeEncodeError are ValueErrors
        raise where.error(f"the image column is not base64 ({error})") from error


def parse_box(text: str, where: Row) -> Box:
    """Reads "x0,y0,x1,y1".

    Raises:
        RowError: the text is not four finite numbers, or the box has no area.
    """
    try:
        x0, y0, x1, y1 = (float(number) for number in text.split(","))
    except ValueError as error:
        raise where.error(f"the box {text!r} is not four numbers x0,y0,x1,y1") from error
    box = (x0, y0, x1, y1)
    if not all(map(math.isfinite, box)):
        raise where.error(f"the box {text!r} is not finite")
    if not has_area(box):
        raise where.error(f"the box {text!r} has no area: it needs x0 < x1 and y0 < y1")
    return box


def clip_box(box: Box, width: int, height: int, where: Row) -> tuple[Box, str | None]:
    """The part of the box inside an image of that size in pixels, a note if it is not all; RowError if it is none."""
    x0, y0, x1, y1 = box
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if not has_area(clipped):
        raise where.error(f"the box {box} is outside its image of {width} x {height} pixels")
    return clipped, None if clipped == box else CLIPPED


def parse_answers(row: Row) -> dict[str, float]:
    """The confidence of each answer in a column such as `1.0|!+red&&0.3|!+dark red`; an empty column has none.

    Raises:
        RowError: an entry is not a confidence from 0 to 1 and an answer.
    """
    confidences = {}
    for entry in filter(None, row.values["answers"].strip().split(SEPARATOR)):
        number, mark, answer = entry.partition("|!+")
        try:
            confidence = float(number)
        except ValueError:
            confidence = float("nan")
        if not mark or not answer.strip() or not math.isfinite(confidence) or not 0 <= confidence <= 1:
            raise row.error(
                f"the answer {entry!r} is not of the form 0.6|!+yes, a confidence from 0 to 1 and an answer"
            )
        confidences[answer.strip()] = confidence
    return confidences
