"""The data path's cases: rows to batches, and the index of a TSV file."""

from __future__ import annotations

import base64
import io
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import Machine
from benchmarks.measure import Workload
from data.module import OFADataModule
from data.tsv import TSVFile, TSVSource
from ofa.tokenizer import Tokenizer
from tasks.refcoco import RefCOCO


@dataclass(frozen=True)
class Loading:
    """Photographs and expressions of the refcoco task, read in training order, as batches."""

    workers: int
    rows: int = 200
    image_size: int = 512
    batch_size: int = 8

    @property
    def name(self) -> str:
        return f"data loading, {self.workers} workers"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        path = write_refcoco(folder / "rows.tsv", self.rows)
        task = RefCOCO.build(tokenizer=Tokenizer.demo(), image_size=self.image_size, max_image_size=self.image_size)
        data = OFADataModule(
            TSVSource({"train": path}, task.columns, task.n_columns),
            task.columns,
            task.encode,
            batch_size=self.batch_size,
            eval_batch_size=self.batch_size,
            num_workers=self.workers,
        )
        loader = data.train_dataloader()
        return Workload(lambda: deque(loader, maxlen=0), self.rows, "rows")


@dataclass(frozen=True)
class Indexing:
    """The index of a TSV file of photographs, which the system has in its memory."""

    rows: int = 2000

    @property
    def name(self) -> str:
        return "index of a TSV file"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        path = write_refcoco(folder / "rows.tsv", self.rows)

        def build() -> None:
            path.with_name(f"{path.name}.index").unlink(missing_ok=True)
            TSVFile(path, RefCOCO.columns, RefCOCO.n_columns)

        return Workload(build, path.stat().st_size / 1e6, "MB")


def write_refcoco(path: Path, rows: int) -> Path:
    """A file in the published columns; 20 photographs take turns."""
    rng = np.random.default_rng(0)
    pictures = [base64.b64encode(photograph(rng)).decode() for _ in range(20)]
    with path.open("w") as file:
        for i in range(rows):
            box = "100.0,120.0,300.0,400.0"
            print(f"row{i}", i, "the second person from the left", box, pictures[i % 20], sep="\t", file=file)
    return path


def photograph(rng: np.random.Generator) -> bytes:
    """A JPEG of 640 x 480 px: soft shapes under grain, about as large as one of COCO's."""
    shapes = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    pixels = np.array(shapes.resize((640, 480), Image.Resampling.BICUBIC)) + rng.normal(0, 8, (480, 640, 1))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
