"""The command: `python -m data.inspect refcoco_train.tsv --grid pictures.png --limit 1000`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from tqdm import tqdm

from data.inspect.grid import Grid, check_place
from data.inspect.report import tables
from data.inspect.survey import guess_task, open_file, survey
from data.prepare.columns import LAYOUTS
from ofa.errors import UserError


def main(words: Sequence[str] | None = None) -> int:
    """The command; its exit status is 0 where training would take every row, else 1, and 2 for an error."""
    arguments = parse_arguments(words)
    try:
        return inspect(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The words of the command; None: those it was started with."""
    parser = argparse.ArgumentParser(
        prog="python -m data.inspect", description="What a TSV file holds, each row read as training reads it."
    )
    parser.add_argument("file", type=Path, help="the TSV file")
    parser.add_argument("--task", choices=LAYOUTS, help="whose columns it has; without it, the first rows tell")
    parser.add_argument("--grid", type=Path, metavar="FILE", help="draw 16 of the rows to this picture")
    parser.add_argument("--limit", type=int, metavar="N", help="look at N rows only: the first, or with --seed any")
    parser.add_argument("--seed", type=int, help="choose the rows at random")
    arguments = parser.parse_args(words)
    if arguments.limit is not None and arguments.limit < 1:
        parser.error("--limit has to be at least 1")
    return arguments


def inspect(arguments: argparse.Namespace) -> int:
    """Prints what the file holds; returns as `main`.

    Raises:
        UserError: the file cannot be read, or the picture of its rows cannot be written.
    """
    if arguments.grid:
        check_place(arguments.grid)
    task = arguments.task or guess_task(arguments.file)
    indices = _choose(len(open_file(arguments.file, task)), arguments.limit, arguments.seed)
    grid = Grid()
    with tqdm(indices, desc="reading", unit="rows", leave=False, disable=None) as bar:
        found = survey(arguments.file, task, bar, grid.add)
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in tables(found, arguments.file):
        console.print(table, highlight=False, markup=False, soft_wrap=isinstance(table, str))
    if arguments.grid:
        grid.save(arguments.grid)
        console.print(f"pictures of {len(grid.tiles)} rows: {arguments.grid}", highlight=False, soft_wrap=True)
    return 1 if found.problems else 0


def _choose(rows: int, limit: int | None, seed: int | None) -> Sequence[int]:
    count = rows if limit is None else min(limit, rows)
    if seed is None:
        return range(count)
    return np.random.default_rng(seed).permutation(rows)[:count].tolist()


if __name__ == "__main__":
    sys.exit(main())
