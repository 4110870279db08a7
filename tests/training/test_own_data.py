"""From a CSV about one's own photos to a trained grounding model, as docs/own_data.md says it."""

import json

from helpers.datasets import write_photos
from helpers.runs import predictions_of, run

from data.prepare.__main__ import main


def test_prepared_photos_train(tmp_path, vocabulary):
    for split, rows in {"train": 8, "val": 3}.items():
        photos = write_photos(tmp_path, rows, f"{split}.csv", size=(120, 80))
        out = str(tmp_path / f"{split}.tsv")
        assert main(["csv", str(photos), "--task", "refcoco", "--out", out, "--max-side", "100", "--workers", "1"]) == 0
    words = ["task=refcoco", "model=micro", "data=tsv", "data.files={train: train.tsv, val: val.tsv}"]
    short = ["task.image_size=64", "task.max_image_size=64", "trainer.accumulate_grad_batches=1", "trainer.max_steps=2"]
    rest = [f"tokenizer={vocabulary}", "data.num_workers=0", "validate_every=2", "hydra.run.dir=run"]
    run("train.py", *words, *short, *rest, folder=tmp_path)
    assert json.loads((tmp_path / "run/metrics.json").read_text()).keys() == {"val"}
    assert [prediction["uniq_id"] for prediction in predictions_of(tmp_path / "run", "val")] == ["1", "2", "3"]
