"""A survey as tables: `tables`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from data.inspect.survey import Survey
from data.prepare.columns import LAYOUTS

_PERCENTILES = (0, 5, 50, 95, 100)
_SHOWN = 10  # of the commonest values, and of the problems


def tables(found: Survey, path: Path) -> Iterator[Table | str]:
    """What there is to say, the most important last, where the terminal stands still."""
    yield f"{path}: {found.rows} rows, {path.stat().st_size / 1e6:.1f} MB, read as {found.task}"
    yield f"columns: {', '.join(f'{i} {name}' for i, name in enumerate(LAYOUTS[found.task].columns))}"
    if found.read < found.rows:
        yield f"{found.read} rows were looked at"
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
        more = len(found.problems) - len(rows)
        title = f"broken rows: {len(found.problems)}"
        yield _table(title + (f", the first {_SHOWN}" if more else ""), ("line", "problem"), rows)
    else:
        yield "no broken rows"


def _measures(found: Survey) -> Table:
    names = ["least", *(f"{p} %" for p in _PERCENTILES[1:-1]), "most"]
    rows = [
        (name, *(f"{value:.4g}" for value in np.percentile(values, _PERCENTILES)))
        for name, values in found.measures.items()
    ]
    return _table("numbers and their percentiles", ("what", *names), rows)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or column == "problem" else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
