"""The command: `python -m data.inspect refcoco_train.tsv --grid rows.png --limit 1000`."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from data.inspect.survey import TEXTS, Example, Survey, guess_task, open_file, survey
from data.layout import layout_of
from ofa.errors import UserError

SIDE = 256  # pixels of the image in a tile
_LINE, _LINES, _LETTERS = 15, 4, 40  # pixels of a line of text, lines, letters in one
_PERCENTILES = (0, 5, 50, 95, 100)
_SHOWN = 10  # of the commonest values, and of the problems


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status is 0 where training would take every row, else 1, and 2 for an error."""
    arguments = parse_arguments(argv)
    try:
        return inspect(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of the command; None: those of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m data.inspect", description="Statistics of a TSV file, each row read as training reads it."
    )
    parser.add_argument("file", type=Path, help="the TSV file")
    parser.add_argument("--task", metavar="NAME", help="whose columns it has; default: guessed from the first rows")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your own configs, with task/NAME.yaml")
    parser.add_argument("--grid", type=Path, metavar="FILE", help="draw 16 of the rows to this image")
    parser.add_argument("--limit", type=int, metavar="N", help="read only N rows: the first, or with --seed any")
    parser.add_argument("--seed", type=int, help="choose the rows at random")
    arguments = parser.parse_args(argv)
    if arguments.limit is not None and arguments.limit < 1:
        parser.error("--limit has to be at least 1")
    return arguments


def inspect(arguments: argparse.Namespace) -> int:
    """Prints the statistics of the file; returns as `main`."""
    if arguments.grid:
        check_grid_path(arguments.grid)
    task = arguments.task or guess_task(arguments.file, arguments.config_dir)
    layout = layout_of(task, arguments.config_dir)
    rows = len(open_file(arguments.file, layout))
    indices: Sequence[int] = range(rows)
    if arguments.seed is not None:
        indices = np.random.default_rng(arguments.seed).permutation(rows).tolist()
    indices = indices[: arguments.limit]
    grid = Grid()
    with tqdm(indices, desc="reading", unit="rows", leave=False, disable=None) as bar:
        found = survey(arguments.file, task, layout, bar, grid.add)
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in tables(found, arguments.file):
        console.print(table, highlight=False, markup=False, soft_wrap=isinstance(table, str))
    if arguments.grid:
        grid.save(arguments.grid)
        console.print(f"images of {len(grid.tiles)} rows: {arguments.grid}", highlight=False, soft_wrap=True)
    return 1 if found.problems else 0


def tables(found: Survey, path: Path) -> Iterator[Table | str]:
    """All statistics, the most important last, where they stay visible in a terminal."""
    yield f"{path}: {found.rows} rows, {path.stat().st_size / 1e6:.1f} MB, read as {found.task}"
    yield f"columns: {', '.join(f'{i} {name}' for i, name in enumerate(found.layout.columns))}"
    if found.read < found.rows:
        yield f"{found.read} rows were read"
    if found.measures:
        yield _measures(found)
    for name, counts in found.counts.items():
        yield _table(
            f"{name}: {len(counts)} different",
            (name, "rows", "share"),
            [(value, str(count), f"{count / counts.total():.1%}") for value, count in counts.most_common(_SHOWN)],
        )
    if found.notes:
        yield _table("notes", ("what", "rows"), [(note, str(count)) for note, count in found.notes.most_common()])
    if found.problems:
        rows = [(str(problem.number), problem.message) for problem in found.problems[:_SHOWN]]
        more = f", the first {_SHOWN}" if len(found.problems) > _SHOWN else ""
        yield _table(f"broken rows: {len(found.problems)}{more}", ("line", "problem"), rows)
    else:
        yield "no broken rows"


def _measures(found: Survey) -> Table:
    percentiles = {name: np.percentile(values, _PERCENTILES) for name, values in found.measures.items()}
    rows = [(name, *(f"{value:.4g}" for value in values)) for name, values in percentiles.items()]
    return _table("numbers and their percentiles", ("what", "least", "5 %", "50 %", "95 %", "most"), rows)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or column == "problem" else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


class Grid:
    """Up to `size` tiles, in the order in which examples come."""

    def __init__(self, size: int = 16) -> None:
        self.size = size
        self.tiles: list[Image.Image] = []

    def add(self, example: Example) -> None:
        """Draws an example, as long as there is room."""
        if len(self.tiles) < self.size:
            self.tiles.append(draw_tile(example))

    def save(self, path: Path) -> None:
        """Writes the image in the format of its suffix; UserError if there are no tiles, or it cannot be written."""
        if not self.tiles:
            raise UserError(f"{path} would be empty: no row can be drawn")
        columns = math.ceil(math.sqrt(len(self.tiles)))
        width, height = self.tiles[0].size
        sheet = Image.new("RGB", (columns * width, math.ceil(len(self.tiles) / columns) * height), "white")
        for number, tile in enumerate(self.tiles):
            sheet.paste(tile, (number % columns * width, number // columns * height))
        try:
            sheet.save(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be written ({error})") from error


def check_grid_path(path: Path) -> None:
    """Checks, before a large file is read, that the grid can be written; UserError if no image can be written there."""
    if not path.parent.is_dir():
        raise UserError(f"--grid {path} cannot be written: {path.parent} is not a folder")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise UserError(f"--grid {path} is not an image format; name it {path.stem}.png")


def draw_tile(example: Example) -> Image.Image:
    """The image in its own aspect with its box, and below it the row's line number and texts."""
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


if __name__ == "__main__":
    sys.exit(main())
