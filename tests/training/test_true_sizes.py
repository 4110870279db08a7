"""The published distillations at their true sizes, one step each, with fresh weights."""

import pytest
import torch
from helpers.datasets import encoded_image
from helpers.runs import run

from ofa.config import OFAConfig
from ofa.model import OFAModel

COLOURS = ["red", "green", "blue", "yellow"] * 2


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    file = tmp_path_factory.mktemp("teacher") / "large.ckpt"
    torch.manual_seed(0)
    model = OFAModel(OFAConfig.from_name("large"))
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"hyper_parameters": {"model": model.config.to_dict()}, "state_dict": weights}, file)
    yield file
    file.unlink()


def rows_of(task, split):
    """Eight rows to learn from, two to validate with, in the published columns."""
    for i, colour in enumerate(COLOURS if split == "train" else COLOURS[:2]):
        image = encoded_image("JPEG", (640, 480), colour)
        yield {
            "refcoco": [f"{i}", "17", f"the {colour} wall", "64,48,320,240", image],
            "caption": [f"{i}", f"{i}", f"A {colour} wall.", "wall", image],
            "snli_ve": [f"{i}", "17", image, f"The wall is {colour}.", "a wall", "entailment"],
        }[task]


FILES = {
    "refcoco": {"train": "refcoco_train", "val": "refcoco_val", "testA": "refcoco_testA", "testB": "refcoco_testB"},
    "caption": {"train": "caption_stage1_train", "val": "caption_val", "test": "caption_test"},
    "snli_ve": {"train": "snli_ve_train", "val": "snli_ve_dev", "test": "snli_ve_test"},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", FILES)
def test_one_step_of_the_published_distillation_from_large_to_tiny_at_512_px(task, teacher, vocabulary, tmp_path):
    for split, name in FILES[task].items():
        lines = ("\t".join(row) for row in rows_of(task, split))
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    run(
        "train.py",
        f"experiment={task}_tiny_from_large",
        f"data.root={tmp_path}",
        f"tokenizer={vocabulary}",
        f"distill.teacher={teacher}",
        "task.image_size=512",
        "data.num_workers=0",
        "trainer.max_steps=1",
        "trainer.log_every_n_steps=1",
        "hydra.run.dir=run",
        folder=tmp_path,
        timeout=1800,
    )
    header, *values = (tmp_path / "run/metrics.csv").read_text().splitlines()
    for name in ("hard", "kd", "attention_mse_sum_encoder", "attention_mse_sum_decoder"):
        column = header.split(",").index(f"train/{name}")
        assert any(line.split(",")[column] for line in values)
