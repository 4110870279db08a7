"""The case of preparing data: photographs and expressions to a TSV file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.loading import photograph
from benchmarks.machine import Machine
from benchmarks.measure import Workload
from data.layout import REFERRING
from data.prepare.lines import Bounds
from data.prepare.records import Conversion, Record
from data.prepare.writer import Options, convert


@dataclass(frozen=True)
class Preparing:
    """Each photograph is read, decoded in full to be sure of it, and kept as it is or made smaller."""

    workers: int
    max_side: int | None = None
    rows: int = 1000

    @property
    def name(self) -> str:
        smaller = f", to {self.max_side} px" if self.max_side else ""
        return f"preparing rows{smaller}, {self.workers} workers"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        rng = np.random.default_rng(0)
        records = []
        for i in range(self.rows):
            image = folder / f"{i}.jpg"
            image.write_bytes(photograph(rng))
            values = {"uniq_id": str(i), "text": "the second person from the left"}
            records.append(Record(f"row {i}", values, image, box=(100.0, 120.0, 300.0, 400.0)))
        conversion = Conversion(folder / "rows.tsv", REFERRING, (), partial(iter, records))
        options = Options(Bounds(self.max_side), self.workers)

        def make() -> None:
            for made in folder.glob("rows.*"):
                made.unlink()
            convert(conversion, {}, options)

        return Workload(make, self.rows, "rows")
