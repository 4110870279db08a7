"""The demo data source: scenes in TSV files of the published columns, written once to a cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.demo.rows import DemoRow, Split
from data.demo.scenes import Box, Scene, SceneConfig, make_scene
from data.source import RowFormat
from data.tsv import TSVSource
from ofa.errors import UserError
from runtime.progress import progress

log = logging.getLogger(__name__)

FORMAT = 1  # raise it when the written content changes, so that older folders are not reused


class DemoFiles(TSVSource):
    """TSV files that are generated once."""

    is_demo = True

    @property
    def baseline_files(self) -> Mapping[str, Path]:
        return self.files

    @classmethod
    def from_config(
        cls, task: RowFormat, root: str, seed: int, scenes: Mapping[str, Any], rows: Mapping[str, int]
    ) -> DemoFiles:
        """The files in a cache folder in `root`; see `write_demo`."""
        log.info(
            "this is the demo: generated scenes, %d px images, a short schedule from scratch; for published data and "
            "recipes use data=tsv data.root=FOLDER tokenizer=FOLDER_OR_HUB_ID",
            scenes["image_size"],
        )
        files = write_demo(task.task, task.demo, Path(root).expanduser(), SceneConfig(**scenes), rows, seed)
        return cls(files, task.columns, task.n_columns, files["train"].with_name("answers.json"))


@dataclass(frozen=True)
class SceneRecord:
    """The line of a split's `.scenes.jsonl` for the row of the same number: all boxes in the image, in pixels."""

    uniq_id: str
    width: int
    height: int
    boxes: list[Box]
    kind: str = ""  # of the question, in a file of questions


def write_demo(
    name: str, task: Any, root: Path, config: SceneConfig, rows: Mapping[str, int], seed: int
) -> dict[str, Path]:
    """The TSV file of each split, written now or by an earlier call with the same arguments.

    No content of a scene occurs in two splits. Next to `<split>.tsv` is `<split>.scenes.jsonl`, see `read_scenes`, and
    for a task with `demo_answers` also `answers.json`, every possible answer and its index. Safe to be called by
    several processes at once: a folder appears completely or not at all.

    Args:
        name: of the task's configuration.
        task: its class, which has `splits`, `demo_rows` and `demo_answers`, see `tasks.base.Task`.
        root: cache folder, in which a folder for these arguments is created.
        rows: how many rows "train" has, and how many each other split ("evaluation").

    Raises:
        UserError: the task has no demo rows, or the folder cannot be written.
    """
    if task.demo_rows is None:
        raise UserError(
            f"task={name} has no demo data: declare demo_rows in its class, or set data=tsv data.root=FOLDER"
        )
    settings = json.dumps([FORMAT, name, asdict(config), dict(rows), seed], sort_keys=True)
    folder = Path(root) / f"{name}_{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        log.info("writing demo data to %s", folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _write_folder(folder, task, config, rows, seed)
        except OSError as error:
            raise UserError(f"demo data cannot be written to {folder} ({error.strerror}); set data.root") from error
    return {split: folder / f"{split}.tsv" for split in ("train", *task.splits)}


def read_scenes(tsv: Path) -> list[SceneRecord]:
    """The records of a file written by `write_demo`, in the order of its rows."""
    with tsv.with_suffix(".scenes.jsonl").open(encoding="utf-8") as lines:
        return [SceneRecord(**json.loads(line)) for line in lines]


def _write_folder(folder: Path, task: Any, config: SceneConfig, rows: Mapping[str, int], seed: int) -> None:
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name))
    try:
        names = ("train", *task.splits)
        for place, name in enumerate(names):
            rng = np.random.default_rng([seed, place])
            scenes = _scenes_of(place, len(names), rng, config)
            count = rows["train" if name == "train" else "evaluation"]
            split = Split(name, place, len(names), count, config, scenes, rng)
            with (
                (unfinished / f"{name}.tsv").open("w", encoding="utf-8") as tsv,
                (unfinished / f"{name}.scenes.jsonl").open("w", encoding="utf-8") as records,
                progress(f"drawing {name}", count, "scenes") as advance,
            ):
                for row in task.demo_rows(split):
                    advance(1)
                    tsv.write("\t".join(row.columns) + "\n")
                    records.write(_record_line(row) + "\n")
        if task.demo_answers:
            numbers = {answer: i for i, answer in enumerate(task.demo_answers(config))}
            (unfinished / "answers.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
        unfinished.chmod(0o755)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _record_line(row: DemoRow) -> str:
    scene = row.scene
    record = asdict(SceneRecord(row.columns[0], *[scene.image_size] * 2, [o.box for o in scene.objects], row.kind))
    if not row.kind:
        del record["kind"]  # only questions have kinds
    return json.dumps(record)


def _scenes_of(split: int, n_splits: int, rng: np.random.Generator, config: SceneConfig) -> Iterator[Scene]:
    """An endless stream of scenes whose content belongs to a split, so that no other split can show the same.

    Content is assigned by its checksum: an eighth to each evaluation split, the rest to the first, the training split.
    """
    tried = 0
    while True:
        scene = make_scene(rng, config)
        place = zlib.crc32(scene.key.encode()) % 8
        if split == (place if place < n_splits else 0):
            tried = 0
            yield scene
        elif (tried := tried + 1) > 10_000:
            raise UserError("the demo has too few different scenes; raise data.scenes.grid, n_colours or n_shapes")
