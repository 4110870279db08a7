"""A data source in files outside the repository: the example of docs/extend.md."""

import json

import pytest
from helpers.datasets import write_jpeg
from helpers.examples import write_example
from helpers.runs import predictions_of, run


@pytest.fixture
def folder(tmp_path):
    write_example("A data source", tmp_path)
    for split, n in {"train": 5, "val": 3}.items():
        for i in range(n):
            write_jpeg(tmp_path / f"photos/{split}{i}.jpg", seed=i)
        entries = [{"file": f"{split}{i}.jpg", "caption": f"cup {i}"} for i in range(n)]
        (tmp_path / f"photos/{split}.json").write_text(json.dumps(entries))
    return tmp_path


def train(folder, vocabulary, *arguments, **options):
    data = ["data=caption_folder", "data.root=photos", "task=caption", "task.image_size=32", f"tokenizer={vocabulary}"]
    short = ["model=micro", "trainer.max_steps=3", "validate_every=2", "data.batch_size=2", "data.num_workers=1"]
    arguments = ["--config-dir", "configs", *data, *short, *arguments]
    return run("train.py", *arguments, folder=folder, path=folder, **options)


def test_it_trains_without_a_recipe_and_answers_each_row(folder, vocabulary):
    train(folder, vocabulary, "hydra.run.dir=run")
    assert json.loads((folder / "run/metrics.json").read_text()).keys() == {"val"}
    assert [prediction["uniq_id"] for prediction in predictions_of(folder / "run", "val")] == ["1", "2", "3"]


def test_its_errors_name_source_and_row_and_a_missing_split_the_remedy(folder, vocabulary):
    (folder / "photos/train3.jpg").unlink()
    process = train(folder, vocabulary, check=False)
    assert process.stderr.splitlines()[-1].startswith("error: entry 4 of photos/train.json: its image cannot be read")
    assert "broken rows skipped: 1" in train(folder, vocabulary, "data.on_error=skip").stdout
    (folder / "photos/val.json").unlink()
    process = train(folder, vocabulary, check=False)
    assert process.stderr.splitlines()[-1].endswith(
        "the data has no split 'val', only train; write its list in the folder data.root"
    )
