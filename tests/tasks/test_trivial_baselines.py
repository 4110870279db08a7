"""What guessing scores on demo files."""

import pytest

from data.demo.files import write_demo
from data.demo.scenes import SceneConfig
from ofa.tokenizer import Tokenizer
from tasks.caption import Caption
from tasks.refcoco import RefCOCO
from tasks.snli_ve import SNLIVE
from tasks.trivial_baselines import trivial_baselines
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
def test_guesses_leave_out_the_rows_that_are_broken(name, kind, column, cell, tmp_path):
    files = write_demo(name, tmp_path, SceneConfig(grid=2), {"train": 12, "evaluation": 6}, seed=1)
    answers = {"answer_list": files["train"].with_name("answers.json")} if kind is VQA else {}
    task = kind(tokenizer=Tokenizer.demo(), image_size=512, **answers)
    last = kind.splits[-1]
    lines = {split: files[split].read_text().splitlines() for split in ("train", last)}
    for split in lines:
        files[split].write_text("\n".join(lines[split][:-1]))
    expected = trivial_baselines(task, files["train"], files[last])
    for split in lines:
        *rest, broken = lines[split]
        cells = broken.split("\t")
        cells[kind.columns[column]] = cell
        files[split].write_text("\n".join([*rest, "\t".join(cells) if cell is not None else "half a row"]))
    assert trivial_baselines(task, files["train"], files[last]) == expected
