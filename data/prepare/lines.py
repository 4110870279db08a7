"""A sample of a raw data set becomes a line of a TSV file, checked as training will read it: `make_line`."""

from __future__ import annotations

import re
from pathlib import Path

from data.prepare.columns import LAYOUTS, check_columns
from data.prepare.pictures import Bounds, read_picture
from data.prepare.records import LeftOut, Sample
from data.tsv import Row, RowError
from ofa.boxes import Box


def make_line(sample: Sample, layout: str, tsv: Path, bounds: Bounds) -> bytes | LeftOut:
    """The encoded line with its end, or why there is none."""
    if isinstance(sample, LeftOut):
        return sample
    cells = {name: re.sub(r"[\t\r\n]+", " ", text).strip() for name, text in sample.values.items()}
    where = Row(cells, tsv, 0)  # it has no line yet; of errors only the message is used
    try:
        picture = read_picture(sample.image, bounds, where)
        if sample.box is not None:
            cells["box"] = write_box(sample.box, picture.ratio)
        check_columns(where, picture.width, picture.height)
    except RowError as error:
        return LeftOut(sample.place, error.message)
    cells["image"] = picture.encoded
    line = "\t".join(cells.get(name, "") for name in LAYOUTS[layout].columns)
    try:
        return f"{line}\n".encode()
    except UnicodeEncodeError:  # JSON can say half of a pair of surrogates
        return LeftOut(sample.place, "the text holds a character that is none, which UTF-8 cannot say")


def write_box(box: Box, ratio: tuple[float, float]) -> str:
    """`x0,y0,x1,y1` in hundredths of a pixel, enough for any picture, and without the noise of float sums."""
    scaled = (value * ratio[i % 2] for i, value in enumerate(box))
    return ",".join(str(round(float(value), 2)) for value in scaled)
