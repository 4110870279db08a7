"""The demo data source: generated scenes of coloured shapes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.demo.files import write_demo
from data.demo.scenes import SceneConfig
from data.source import RowFormat
from data.tsv import TSVSource

log = logging.getLogger(__name__)


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
        """Writes the files to a cache folder in `root`, unless an earlier call with the same settings did.

        Raises:
            UserError: the task has no demo data, or the folder cannot be written.
        """
        log.info(
            "this is the demo: generated scenes, %d px images, a short schedule from scratch; for published data and "
            "recipes use data=tsv data.root=FOLDER tokenizer=FOLDER_OR_HUB_ID",
            scenes["image_size"],
        )
        files = write_demo(task.task, task.demo, Path(root).expanduser(), SceneConfig(**scenes), rows, seed)
        return cls(files, task.columns, task.n_columns, files["train"].with_name("answers.json"))
