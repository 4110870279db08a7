"""Boxes in a row: `parse_box`, `clip_box`; `ofa.boxes` says what a box is."""

import math

from data.tsv import Row
from ofa.boxes import Box, has_area

CLIPPED = "box clipped to the image"


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
    """The part of the box inside an image of width x height pixels, and a note where that is not all of it.

    Raises:
        RowError: the box lies outside the image altogether.
    """
    x0, y0, x1, y1 = box
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if not has_area(clipped):
        raise where.error(f"the box {box} is outside its image of {width} x {height} pixels")
    return clipped, None if clipped == box else CLIPPED
