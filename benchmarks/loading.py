"""Cases of the data path: preparing a TSV file, its index, and loading batches."""

from __future__ import annotations

import base64
import io
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Case, Machine, Workload
from data.layout import REFERRING
from data.module import OFADataModule
from data.prepare.records import Bounds, Conversion, Record
from data.prepare.writer import Options, convert
from data.tsv import TSVFile, TSVSource
from ofa.tokenizer import Tokenizer
from tasks.refcoco import RefCOCO


@dataclass(frozen=True)
class Loading(Case):
    """Batches of photographs and expressions of the refcoco task in training order."""

    workers: int
    rows: int = 200
    image_size: int = 512
    batch_size: int = 8

    label = "data loading, {workers} workers"

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
class Indexing(Case):
    """The index of a TSV file of photographs in the page cache."""

    rows: int = 2000

    label = "index of a TSV file"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        path = write_refcoco(folder / "rows.tsv", self.rows)

        def build() -> None:
            path.with_name(f"{path.name}.index").unlink(missing_ok=True)
            TSVFile(path, RefCOCO.columns, RefCOCO.n_columns)

        return Workload(build, path.stat().st_size / 1e6, "MB")


@dataclass(frozen=True)
class Preparing(Case):
    """Photographs and expressions to a TSV file; each photograph is fully decoded and kept as it is or made smaller."""

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


def write_refcoco(path: Path, rows: int) -> Path:
    """A file in the published columns with 20 different photographs."""
    rng = np.random.default_rng(0)
    images = [base64.b64encode(photograph(rng)).decode() for _ in range(20)]
    with path.open("w") as file:
        for i in range(rows):
            box = "100.0,120.0,300.0,400.0"
            print(f"row{i}", i, "the second person from the left", box, images[i % 20], sep="\t", file=file)
    return path


def photograph(rng: np.random.Generator) -> bytes:
    """A JPEG file of 640 x 480 px, smooth shapes with noise, of about the size of a file of COCO."""
    shapes = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    pixels = np.array(shapes.resize((640, 480), Image.Resampling.BICUBIC)) + rng.normal(0, 8, (480, 640, 1))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
