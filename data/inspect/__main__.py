"""The command: `python -m data.inspect refcoco_train.tsv --grid rows.png --limit 1000`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from tqdm import tqdm

from data.inspect.show import Grid, check_grid_path, tables
from data.inspect.survey import guess_task, open_file, survey
from data.layout import layout_of
from ofa.errors import UserError


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


if __name__ == "__main__":
    sys.exit(main())
