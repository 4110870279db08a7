"""Trivial baselines on demo files."""

import pytest
from helpers.demo import demo_files

from data.demo.scenes import SceneConfig
from data.tsv import TSVFile
from tasks.caption import Caption
from tasks.refcoco import RefCOCO
from tasks.snli_ve import SNLIVE
from tasks.vqa import VQA


@pytest.mark.parametrize(
    ("name", "kind", "column", "cell"),
    [
        ("refcoco", RefCOCO, "box", "5,5,5,9"),
        ("caption", Caption, "caption", " && "),
        ("vqa", VQA, "answers", "red"),
        ("snli_ve", SNLIVE, "label", None),
    ],
)
def test_guesses_leave_out_broken_rows(name, kind, column, cell, tmp_path):
    files = demo_files(name, tmp_path, SceneConfig(grid=2), {"train": 12, "evaluation": 6})

    def baselines():
        return kind.trivial_baselines(*(TSVFile(file, kind.columns, kind.n_columns) for file in chosen.values()))

    chosen = {split: files[split] for split in ("train", kind.splits[-1])}
    lines = {split: file.read_text().splitlines() for split, file in chosen.items()}
    for split, file in chosen.items():
        file.write_text("\n".join(lines[split][:-1]))
    expected = baselines()
    for split, file in chosen.items():
        *rest, broken = lines[split]
        cells = broken.split("\t")
        cells[kind.columns[column]] = cell
        file.write_text("\n".join([*rest, "\t".join(cells) if cell is not None else "half a row"]))
    assert baselines() == expected
