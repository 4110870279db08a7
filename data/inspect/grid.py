"""Rows as people see them: pictures with their boxes, texts below, in one image: `Grid`, `check_place`."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from data.inspect.survey import TEXTS, Example
from ofa.errors import UserError

SIDE = 256  # pixels a tile has for its picture
_LINE, _LINES, _LETTERS = 15, 4, 40  # pixels of a line of text, lines, letters in one


class Grid:
    """Up to `size` tiles, in the order in which examples come."""

    def __init__(self, size: int = 16) -> None:
        self.size = size
        self.tiles: list[Image.Image] = []

    def add(self, example: Example) -> None:
        """A tile of it, as long as there is room."""
        if len(self.tiles) < self.size:
            self.tiles.append(draw_tile(example))

    def save(self, path: Path) -> None:
        """Writes the picture; its suffix says in which format.

        Raises:
            UserError: there are no tiles, or it cannot be written.
        """
        if not self.tiles:
            raise UserError(f"{path} would be empty: no row can be drawn")
        columns = math.ceil(math.sqrt(len(self.tiles)))
        width, height = self.tiles[0].size
        picture = Image.new("RGB", (columns * width, math.ceil(len(self.tiles) / columns) * height), "white")
        for number, tile in enumerate(self.tiles):
            picture.paste(tile, (number % columns * width, number // columns * height))
        try:
            picture.save(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be written ({error})") from error


def check_place(path: Path) -> None:
    """Before a file of hours is read for it.

    Raises:
        UserError: no picture can be written there.
    """
    if not path.parent.is_dir():
        raise UserError(f"--grid {path} cannot be written: {path.parent} is not a folder")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise UserError(f"--grid {path} does not end in a kind of picture; call it {path.stem}.png")


def draw_tile(example: Example) -> Image.Image:
    """The picture in its own aspect with its box, and below its line and what it says."""
    tile = Image.new("RGB", (SIDE + 8, SIDE + 8 + _LINE * _LINES), "white")
    scale = SIDE / max(example.image.size)
    width, height = (max(1, round(side * scale)) for side in example.image.size)
    tile.paste(example.image.resize((width, height)), (4, 4))
    pen = ImageDraw.Draw(tile)
    if example.box is not None:
        x0, y0, x1, y1 = (4 + value * scale for value in example.box)
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline="lime", width=3)
    values = example.row.values
    texts = [values[name] for name in (*TEXTS, "label", "answers") if values.get(name)]
    text = f"{example.row.number}: {' | '.join(texts)}"
    pen.text((4, height + 8), textwrap.fill(text, width=_LETTERS, max_lines=_LINES), fill="black")
    return tile
