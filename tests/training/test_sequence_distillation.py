"""Sequence-level distillation: targets are the predictions of the teacher for the training file."""

import json
from types import SimpleNamespace

import pytest
from helpers.runs import predictions_of, run
from hydra import compose, initialize_config_dir

from ofa.errors import UserError
from ofa.tokenizer import Tokenizer
from runtime.overrides import CONFIGS, check_overrides
from training.build import build_objective, build_task
from training.data_files import build_data, build_source

SMALL_DEMO = ["model=micro", "task=snli_ve", "data.rows.train=24", "data.rows.evaluation=6", "task.image_size=32",
              "data.scenes.grid=2", "data.batch_size=4"]  # fmt: skip
TASK = SimpleNamespace(processor=SimpleNamespace(tree=None), reward_columns=())
SHORT = ["trainer.max_steps=2", "validate_every=2"]


def config_of(*words):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", list(words))


def test_a_student_trains_on_the_predictions_of_its_teacher(tmp_path, monkeypatch):
    run("train.py", *SMALL_DEMO, *SHORT, "hydra.run.dir=teacher", folder=tmp_path)
    words = ["checkpoint=teacher", "split=train", "hydra.run.dir=answers"]
    process = run("evaluate.py", *SMALL_DEMO[1:], *words, folder=tmp_path)
    assert "accuracy" in process.stdout
    assert json.loads((tmp_path / "answers/metrics.json").read_text()).keys() == {"train"}
    answers = predictions_of(tmp_path / "answers", "train")
    assert [answer["uniq_id"] for answer in answers] == [f"train{i}" for i in range(24)]

    distill = ["distill=sequence", "distill.predictions=answers/predictions.jsonl"]
    process = run("train.py", *SMALL_DEMO, *SHORT, *distill, "hydra.run.dir=student", folder=tmp_path)
    assert "teacher answers to 24 training rows in answers/predictions.jsonl" in process.stdout
    metrics = json.loads((tmp_path / "student/metrics.json").read_text())
    assert metrics.keys() == {"val", "test"} and 0 <= metrics["val"]["accuracy"] <= 1
    assert "train/kd" not in (tmp_path / "student/metrics.csv").read_text().splitlines()[0]

    monkeypatch.setenv("OFA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    config = config_of(*SMALL_DEMO, *distill)
    source = build_source(config)
    task = build_task(config, source, Tokenizer.demo())
    batches = build_data(config, source, task, ["train", "val"]).train_dataloader()
    said = {name: truth.answer for batch in batches for name, truth in zip(batch.ids, batch.truths, strict=True)}
    assert said == {answer["uniq_id"]: answer["answer"] for answer in answers}


def test_predictions_need_no_teacher_and_may_be_combined_with_one():
    config = config_of("distill=sequence", "distill.predictions=p")
    assert build_objective(config, Tokenizer.demo(), TASK).distillation is None
    both = ["distill=logits", "distill.predictions=p", "distill.teacher=nowhere"]
    check_overrides("train", both)
    with pytest.raises(UserError, match="checkpoint nowhere does not exist"):
        build_objective(config_of(*both), Tokenizer.demo(), TASK)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill=sequence"], "distill.predictions has to be given: train.py distill.predictions=..."),
        (["distill=sequence", "distill.predictions=p", "distill.kd=ce"], "there is no setting 'distill.kd'"),
    ],
)
def test_what_is_missing_or_does_not_apply_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        check_overrides("train", words)


@pytest.mark.parametrize(
    ("words", "rewards", "message"),
    [
        (["distill.predictions=null"], (), "distill.predictions names no file: .* or choose distill=none"),
        (
            ["distill.predictions=p", "task=caption_scst"],
            ("caption",),
            "task=caption_scst is trained on rewards, not on",
        ),
    ],
)
def test_a_distillation_needs_predictions_and_a_criterion_on_targets(words, rewards, message):
    task = SimpleNamespace(processor=TASK.processor, reward_columns=rewards)
    with pytest.raises(UserError, match=message):
        build_objective(config_of("distill=sequence", *words), Tokenizer.demo(), task)
