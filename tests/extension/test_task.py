"""A task in files outside the repository: the example of docs/extend.md, complete and without its optional parts."""

import json
import re

import pytest
from helpers.examples import write_example
from helpers.runs import predictions_of, run

from data.inspect.__main__ import main as inspect
from ofa import pipeline

TASK = ["task=count", "task.image_size=32", "data.num_workers=0"]
DEMO = [*TASK, "data.rows.train=32", "data.rows.evaluation=8", "data.scenes.grid=2"]
SHORT = ["model=micro", "trainer.max_steps=2", "validate_every=2"]


def write_required_parts(folder):
    """The example without its optional parts."""
    module = write_example("A task", folder) / "count_task.py"
    module.write_text(re.sub(r"    pipeline = .*\n", "", module.read_text().split("    # Optional")[0]))
    return folder


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    folder = write_example("A task", tmp_path_factory.mktemp("count"))
    return folder, command(folder, "train.py", *DEMO, *SHORT, "hydra.run.dir=run")


def command(folder, script, *arguments, **options):
    return run(script, "--config-dir", "configs", *arguments, folder=folder, path=folder, **options)


def test_it_trains_on_the_demo_and_is_compared_with_its_baselines(demo_run):
    folder, process = demo_run
    assert "most frequent number" in process.stdout
    assert json.loads((folder / "run/metrics.json").read_text())["test"].keys() == {"accuracy"}
    assert json.loads((folder / "run/model/task.json").read_text())["pipeline"] == "object-counting"


def test_its_checkpoint_is_evaluated_and_predicts(demo_run):
    folder, _ = demo_run
    command(folder, "evaluate.py", *DEMO, "checkpoint=run", "split=test", "hydra.run.dir=again")
    assert predictions_of(folder / "again", "test") == predictions_of(folder / "run", "test")
    command(folder, "predict.py", "task=count", "checkpoint=run", "input=run/pictures_test.png", "output=predicted")
    (prediction,) = map(json.loads, (folder / "predicted/predictions.jsonl").read_text().splitlines())
    assert prediction.keys() == {"image", "text", "score"}


def test_its_pipeline_exists_once_its_module_is_imported_and_its_files_are_inspected(demo_run, monkeypatch, capsys):
    folder, _ = demo_run
    monkeypatch.syspath_prepend(folder)
    __import__("count_task")
    answer = pipeline("object-counting", folder / "run")(folder / "run/pictures_test.png")
    assert answer.keys() == {"text", "score"}
    (file,) = folder.glob("cache/demo/count_*/test.tsv")
    assert inspect([str(file), "--config-dir", str(folder / "configs"), "--task", "count"]) == 0
    assert "8 rows" in capsys.readouterr().out


def test_the_required_parts_suffice_for_own_files(demo_run, tmp_path, vocabulary):
    folder = write_required_parts(tmp_path)
    (demo,) = demo_run[0].glob("cache/demo/count_*")
    for split in ("train", "val", "test"):
        (folder / f"count_{split}.tsv").write_bytes((demo / f"{split}.tsv").read_bytes())
    files = ["data=tsv", "data.root=.", f"tokenizer={vocabulary}", "data.batch_size=4"]
    command(folder, "train.py", *TASK, *SHORT, *files, "hydra.run.dir=run")
    assert json.loads((folder / "run/metrics.json").read_text())["test"].keys() == {"accuracy"}
    assert not (folder / "run/model/task.json").exists()


def test_a_class_that_cannot_be_imported_is_named_with_the_remedy(tmp_path):
    folder = write_example("A task", tmp_path)
    process = run("train.py", "--config-dir", "configs", *DEMO, *SHORT, folder=folder, check=False)
    message = process.stderr.splitlines()[-1]
    assert message.startswith("error: count_task.CountTask cannot be imported") and message.endswith("on PYTHONPATH")


def test_without_demo_rows_the_demo_is_refused(tmp_path):
    folder = write_required_parts(tmp_path)
    process = command(folder, "train.py", *DEMO, *SHORT, check=False)
    assert process.returncode == 1
    assert "error: task=count has no demo data: declare demo_rows in its class, or set data=tsv" in process.stderr
    inspected = ["data.inspect", "x.tsv", "--config-dir", "configs", "--task", "count"]
    process = run("-m", *inspected, folder=folder, path=folder, check=False)
    assert "task=count declares no layout of its files: set `layout` in the class CountTask" in process.stderr
