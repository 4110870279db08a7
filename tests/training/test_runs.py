"""Whole runs, started as a user starts them."""

import csv
import json
import math
import re

import pytest
import torch
from helpers.runs import answers_of_pipeline, predictions_of, run
from PIL import Image

from ofa import OFAConfig, OFAModel
from ofa.checkpoint import export
from ofa.tokenizer import Tokenizer

SMALL_DEMO = ["model=micro", "data.rows.train=64", "data.rows.evaluation=10", "task.image_size=32",
              "data.scenes.grid=2", "data.eval_batch_size=5"]  # fmt: skip


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    steps = ["trainer.max_steps=4", "validate_every=2", "log_every=0.01"]
    return folder, run("train.py", *SMALL_DEMO, *steps, "hydra.run.dir=run", folder=folder)


def test_a_demo_run_ends_with_scores_and_trivial_baselines(demo_run):
    _, process = demo_run
    assert "this is the demo" in process.stdout
    for text in ("testB", "trivial baselines (acc@0.5)", "most frequent box", "random object", "python evaluate.py"):
        assert text in process.stdout


def test_without_a_terminal_progress_is_in_the_output_and_in_the_log(demo_run):
    folder, process = demo_run
    for output in (process.stdout, (folder / "run/train.log").read_text()):
        assert re.search(r"INFO step 3 of 4: loss \d+\.\d+, \d+\.\d samples/s, 0:00:\d\d left\n", output)
        assert re.search(r"INFO validation after step 2: acc@0.5 \d\.\d+, mean_iou \d\.\d+; the best so far\n", output)
        assert "INFO test, testB: 1 of 2 batches\n" in output
    assert "it/s" not in process.stdout + process.stderr


def test_a_run_folder_is_complete(demo_run):
    run_folder = demo_run[0] / "run"
    for name in ("config.yaml", "train.log", "metrics.csv", "metrics.json", "predictions.jsonl", "tokenizer/vocab.json",
                 "checkpoints/best.ckpt", "checkpoints/last.ckpt", "tokenizer/merges.txt"):  # fmt: skip
        assert (run_folder / name).is_file(), name
    assert list((run_folder / "tensorboard").glob("events.out.tfevents.*"))
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert metrics.keys() == {"val", "testA", "testB"}
    assert 0 <= metrics["testA"]["acc@0.5"] <= 1
    predictions = predictions_of(run_folder, "testA")
    assert [p["uniq_id"] for p in predictions] == [f"testA{i}" for i in range(10)]
    assert all(len(p["box"]) == 4 and p["score"] < 0 for p in predictions)
    assert Image.open(run_folder / "pictures_testA.png").width > 500


def test_a_run_exports_a_model_whose_pipeline_answers_as_its_test_did(demo_run):
    folder = demo_run[0]
    (file,) = (folder / "cache").rglob("testA.tsv")
    answers = answers_of_pipeline(folder / "run", "visual-grounding", file, image=4, text=2)
    for answer, prediction in zip(answers, predictions_of(folder / "run", "testA"), strict=True):
        assert answer["boxes"] == [pytest.approx(prediction["box"], abs=1e-3)]
        assert answer["scores"] == [pytest.approx(math.exp(prediction["score"]), abs=1e-4)]


def test_the_same_command_gives_the_same_numbers(demo_run):
    folder, _ = demo_run
    run("train.py", *SMALL_DEMO, "trainer.max_steps=4", "validate_every=2", "hydra.run.dir=again", folder=folder)
    weights = [
        torch.load(folder / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "again")
    ]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert predictions_of(folder / "run", "val") == predictions_of(folder / "again", "val")


def test_evaluate_scores_the_chosen_split_of_a_run_with_the_chosen_beam(demo_run):
    folder, _ = demo_run
    out = "hydra.run.dir=evaluation"
    run("evaluate.py", *SMALL_DEMO[1:], "checkpoint=run", "split=testA", "generation.beam_size=5", out, folder=folder)
    ours = json.loads((folder / "evaluation/metrics.json").read_text())
    assert ours == {"testA": json.loads((folder / "run/metrics.json").read_text())["testA"]}
    assert predictions_of(folder / "evaluation", "testA") == predictions_of(folder / "run", "testA")


def test_a_checkpoint_of_another_size_is_refused_in_one_line(demo_run):
    folder, _ = demo_run
    arguments = [argument for argument in SMALL_DEMO if argument != "model=micro"]
    process = run("train.py", *arguments, "model=tiny", "init=run", folder=folder, check=False)
    assert process.returncode == 1
    assert re.fullmatch(
        r"error: run/model holds a model of another size: .*; set model= .*\n", process.stderr.splitlines(True)[-1]
    )
    assert "Traceback" not in process.stderr


def test_debug_overfit_fits_one_batch(tmp_path):
    settings = ["debug=overfit", *SMALL_DEMO, "data.batch_size=4", "trainer.log_every_n_steps=1", "logger=csv"]
    process = run("train.py", *settings, "trainer.max_steps=150", "hydra.run.dir=run", folder=tmp_path)
    rows = csv.DictReader((tmp_path / "run/metrics.csv").open())
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert losses[0] > 3
    assert losses[-1] < 0.05, process.stdout


@pytest.fixture(scope="module")
def tsv_arguments(refcoco_root, vocabulary):
    return ["data=tsv", f"data.root={refcoco_root}", f"tokenizer={vocabulary}", "model=micro", "data.num_workers=1"]


def test_published_columns_with_jpegs_train_and_evaluate(tsv_arguments, tmp_path):
    short = ["trainer.max_epochs=2", "trainer.accumulate_grad_batches=1", "validate_every=2", "task.image_size=64"]
    run("train.py", *tsv_arguments, *short, "ema.decay=0.9", "hydra.run.dir=run", folder=tmp_path)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics.keys() == {"val", "testA", "testB"}
    arguments = [argument for argument in tsv_arguments if argument != "model=micro"]
    run("evaluate.py", *arguments, "task.image_size=64", "checkpoint=run/checkpoints/last.ckpt", "split=[val,testB]",
        "hydra.run.dir=evaluation", folder=tmp_path)  # fmt: skip
    assert json.loads((tmp_path / "evaluation/metrics.json").read_text()).keys() == {"val", "testB"}
    boxes = predictions_of(tmp_path / "evaluation", "val")
    assert [p["uniq_id"] for p in boxes] == [f"val{i}" for i in range(5)]


def test_published_data_gets_the_published_recipe_and_no_settings_of_the_demo(tsv_arguments, tmp_path):
    process = run("train.py", *tsv_arguments, "--cfg", "job", "--resolve", folder=tmp_path)
    assert "image_size: 512" in process.stdout
    assert "accumulate_grad_batches: 8" in process.stdout
    assert "scenes" not in process.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.root": None}, "data=tsv needs data.root=FOLDER"),
        ({"data.root": "data.root=nowhere"}, "data.root=nowhere is not a folder"),
        ({"tokenizer": None}, "data=tsv needs the published vocabulary, not the demo's"),
        ({"model": "model=tinny"}, "did you mean 'tiny'"),
        ({"image": "task.image_size=688"}, "task.image_size=688 is more than the 672 px"),
        ({"precision": "trainer.precision=16-mixed"}, "trainer.precision=16-mixed needs a GPU"),
        ({"split": "data.files={train: a.tsv, val: b.tsv}"}, "a.tsv does not exist"),
        ({"init": "init=nowhere.ckpt"}, "checkpoint nowhere.ckpt does not exist"),
        ({"lr": "optim.lr=-1"}, "optim.lr=-1"),
    ],
)
def test_wrong_settings_are_refused_in_one_line_before_work_starts(tsv_arguments, tmp_path, changes, message):
    arguments = {argument.split("=")[0]: argument for argument in tsv_arguments} | changes
    process = run("train.py", *(argument for argument in arguments.values() if argument), folder=tmp_path, check=False)
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in process.stderr


def test_weights_of_another_vocabulary_are_refused(tsv_arguments, tmp_path):
    export(tmp_path / "demo", OFAModel(OFAConfig.from_name("micro")), Tokenizer.demo(), None)
    process = run("train.py", *tsv_arguments, "init=demo", folder=tmp_path, check=False)
    assert "error: demo was trained with another vocabulary" in process.stderr.splitlines()[-1]


def test_broken_rows_stop_a_run_or_are_skipped_and_counted(refcoco_root, vocabulary, tmp_path):
    lines = (refcoco_root / "refcoco_train.tsv").read_text().splitlines()
    for split in ("val", "testA", "testB"):
        (tmp_path / f"refcoco_{split}.tsv").write_text((refcoco_root / f"refcoco_{split}.tsv").read_text())
    cells = lines[2].split("\t")
    lines[2] = "\t".join([*cells[:3], "5,5,5,9", cells[4]])
    outside = lines[4].split("\t")
    lines[4] = "\t".join([*outside[:3], "5,5,5000,50", outside[4]])
    (tmp_path / "refcoco_train.tsv").write_text("\n".join(lines))
    arguments = ["data=tsv", f"data.root={tmp_path}", f"tokenizer={vocabulary}", "model=micro", "data.num_workers=0"]
    arguments += ["trainer.max_epochs=1", "task.image_size=32", "trainer.accumulate_grad_batches=1", "validate_every=2"]
    process = run("train.py", *arguments, folder=tmp_path, check=False)
    assert process.returncode == 1
    assert re.search(r"^error: line 3 of .*refcoco_train.tsv: .*", process.stderr, re.MULTILINE)
    process = run("train.py", *arguments, "data.on_error=skip", folder=tmp_path)
    assert "training: broken rows skipped: 1, among them" in process.stdout
    assert "skipped line 3 of" in process.stdout
    assert "box clipped to the image, 1 times" in process.stdout


def test_files_of_train_and_val_are_enough_in_mixed_precision_too(refcoco_root, vocabulary, tmp_path):
    files = f"data.files={{train: {refcoco_root}/refcoco_train.tsv, val: {refcoco_root}/refcoco_val.tsv}}"
    arguments = ["data=tsv", files, f"tokenizer={vocabulary}", "data.num_workers=0", "task.image_size=32"]
    settings = ["model=micro", "trainer.max_epochs=1", "trainer.precision=bf16-mixed", "hydra.run.dir=run"]
    run("train.py", *arguments, *settings, folder=tmp_path)
    assert json.loads((tmp_path / "run/metrics.json").read_text()).keys() == {"val"}
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 1  # two batches, accumulated
    process = run("evaluate.py", *arguments, "checkpoint=nowhere", folder=tmp_path, check=False)
    assert process.stderr.splitlines()[-1] == "error: checkpoint nowhere does not exist"
