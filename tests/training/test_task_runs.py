"""Captioning, entailment and question answering as a user starts them, on published columns and on the demo."""

import base64
import json
import os
import shlex
import shutil
from types import SimpleNamespace

import pytest
from helpers.datasets import encoded_image
from helpers.runs import answers_of_pipeline, predictions_of, run
from hydra import compose, initialize_config_dir
from PIL import Image

from data.module import OFADataModule
from data.source import RowError
from data.tsv import TSVSource
from ofa.errors import UserError
from ofa.processors.entailment import ANSWERS
from ofa.tokenizer import Tokenizer
from runtime.overrides import CONFIGS
from tasks.caption import SelfCriticalCaption
from training.build import build_objective, build_task, check_task, generation_options
from training.data_files import build_source

SMALL = ["model=micro", "data.num_workers=0", "task.image_size=32", "data.eval_batch_size=3"]
SHORT = ["trainer.max_epochs=1", "trainer.accumulate_grad_batches=1", "validate_every=2", "data.batch_size=2"]
SMALL_DEMO = ["model=micro", "data.rows.train=8", "data.rows.evaluation=6", "task.image_size=32",
              "data.scenes.grid=2", "trainer.max_steps=2", "validate_every=2", "data.batch_size=4"]  # fmt: skip
COLOURS = ["red", "green", "blue", "yellow", "white", "purple"]


def jpeg(i):
    """JPEG files, since the published ones are; both alphabets of base64 occur in them."""
    return encoded_image("JPEG", (80, 50), COLOURS[i], base64.urlsafe_b64encode if i % 2 else base64.b64encode)


def write(path, rows):
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """A folder of the published files of all three tasks, in their columns."""
    folder = tmp_path_factory.mktemp("published")
    names = {"caption": ("caption_stage1_train", "caption_val", "caption_test")}
    for split in names["caption"]:
        joint = "" if "train" in split else "&&the photo of a {0} wall."
        rows = [[f"{split}{i}", str(100 + i), ("A {0} wall." + joint).format(c), "wall&&sky", jpeg(i)]
                for i, c in enumerate(COLOURS)]  # fmt: skip
        write(folder / f"{split}.tsv", rows)
    (folder / "caption_stage2_train.tsv").write_text((folder / "caption_val.tsv").read_text())
    labels = ["entailment", "neutral", "contradiction"] * 2
    for split in ("train", "dev", "test"):
        rows = [[f"{split}{i}", "17", jpeg(i), f"The wall is {c}.", "a wall", label]
                for i, (c, label) in enumerate(zip(COLOURS, labels, strict=True))]  # fmt: skip
        write(folder / f"snli_ve_{split}.tsv", rows)
    for split in ("train", "val", "test"):
        answers = "" if split == "test" else "0.9|!+{0}&&0.3|!+dark {0}"
        rows = [[str(900 + i), "17", "What color is it", answers.format(c), "wall&&sky", jpeg(i)]
                for i, c in enumerate(COLOURS)]  # fmt: skip
        write(folder / f"vqa_{split}.tsv", rows)
    listed = [*COLOURS, *(f"dark {c}" for c in COLOURS)]
    (folder / "answers.json").write_text(json.dumps({answer: i for i, answer in enumerate(listed)}))
    return folder


@pytest.fixture(scope="module")
def published(data_root, vocabulary):
    return ["data=tsv", f"data.root={data_root}", f"tokenizer={vocabulary}", *SMALL]


def without_model(words):
    """Arguments for evaluate.py, which takes the model from the checkpoint."""
    return [word for word in words if not word.startswith("model=")]


def without_java(folder, monkeypatch):
    """Leaves METEOR out, whose Java program takes seconds to start for each split."""
    java = folder / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_both_stages_of_captioning_train_and_report(published, data_root, tmp_path, monkeypatch):
    run("train.py", "task=caption", *published, *SHORT, "hydra.run.dir=run", folder=tmp_path)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics.keys() == {"val", "test"}
    assert {"cider_d", "bleu_1", "bleu_4", "rouge_l", "cider"} <= metrics["test"].keys()
    assert ("meteor" in metrics["test"]) == (shutil.which("java") is not None)
    without_java(tmp_path, monkeypatch)
    results = json.loads((tmp_path / "run/results_test.json").read_text())
    assert [r["image_id"] for r in results] == [100, 101, 102, 103, 104, 105]
    answers = answers_of_pipeline(tmp_path / "run", "image-captioning", data_root / "caption_test.tsv", image=4)
    assert [answer["text"] for answer in answers] == [r["caption"] for r in results]
    words = ["task=caption_scst", *published, *SHORT, "init=run", "hydra.run.dir=scst"]
    process = run("train.py", *words, folder=tmp_path)
    assert "counting the n-grams of all training references" in process.stdout
    assert "cider_d" in json.loads((tmp_path / "scst/metrics.json").read_text())["test"]
    words = ["task=caption", *without_model(published), "checkpoint=scst", "split=test", "hydra.run.dir=evaluation"]
    run("evaluate.py", *words, folder=tmp_path)
    assert predictions_of(tmp_path / "evaluation", "test") == predictions_of(tmp_path / "scst", "test")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "task=caption_scst starts from a trained model: set init=RUN, a run of task=caption"),
        (["init=RUN", "trainer=fsdp"], "task=caption_scst generates in each step, which trainer=fsdp does not support"),
    ],
)
def test_self_critical_training_needs_a_model_to_start_from_and_all_of_it(published, words, message):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["task=caption_scst", *published, *words])
    with pytest.raises(UserError, match=message):
        check_task(config)


def test_a_validation_split_without_truths_is_refused(published, data_root, tmp_path):
    files = f"data.files={{train: {data_root}/vqa_train.tsv, val: {data_root}/vqa_test.tsv}}"
    process = run("train.py", "task=vqa", *published, *SHORT, files, folder=tmp_path, check=False)
    assert "the rows of the validation split have no truth to score" in process.stderr.splitlines()[-1]


def test_entailment_trains_and_is_scored_by_class(published, data_root, tmp_path):
    settings = ["criterion.rdrop_alpha=1.0", "trainer.log_every_n_steps=1", "hydra.run.dir=run"]
    run("train.py", "task=snli_ve", *published, *SHORT, *settings, folder=tmp_path)
    assert "train/rdrop" in (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics.keys() == {"val", "test"}
    assert {"accuracy", "accuracy_neutral"} <= metrics["test"].keys()
    assert sum(sum(row.values()) for row in metrics["test"]["confusion"].values()) == 6
    file = data_root / "snli_ve_test.tsv"
    answers = answers_of_pipeline(tmp_path / "run", "visual-entailment", file, image=2, text=3, caption=4)
    given = [prediction["answer"] for prediction in predictions_of(tmp_path / "run", "test")]
    assert [ANSWERS[answer["label"]] for answer in answers] == given


def test_questions_are_answered_by_candidates_by_beams_and_without_a_list(published, data_root, tmp_path):
    with_worker = [*SHORT, "data.num_workers=1", "hydra.run.dir=run"]
    process = run("train.py", "task=vqa", *published, *with_worker, folder=tmp_path)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert 0 <= metrics["val"]["vqa_score"] <= 1
    assert metrics["test"] == {} and "Not scored, since their rows have no truth: test" in process.stdout
    results = json.loads((tmp_path / "run/results_test.json").read_text())
    assert [r["question_id"] for r in results] == [900, 901, 902, 903, 904, 905]
    assert Image.open(tmp_path / "run/pictures_val.png").width > 500
    rows = [line.replace("&&", ",") for line in (data_root / "vqa_test.tsv").read_text().splitlines()]
    write(tmp_path / "questions.tsv", [row.split("\t") for row in rows])
    columns = {"image": 5, "text": 2, "objects": 4}
    answers = answers_of_pipeline(tmp_path / "run", "visual-question-answering", tmp_path / "questions.tsv", **columns)
    assert [answer["text"] for answer in answers] == [r["answer"] for r in results]
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"  # keeps image size and answers, too
    again = answers_of_pipeline(checkpoint, "visual-question-answering", tmp_path / "questions.tsv", **columns)
    assert [answer["text"] for answer in again] == [answer["text"] for answer in answers]

    by_beams = ["task.inference=beam_search", "generation.beam_size=12", "hydra.run.dir=beams"]
    run("evaluate.py", "task=vqa", *without_model(published), "checkpoint=run", "split=val", *by_beams, folder=tmp_path)
    answers = [[p["answer"] for p in predictions_of(tmp_path / name, "val")] for name in ("run", "beams")]
    assert answers[0] == answers[1]  # a beam as wide as the list finds the best candidate

    openly = ["task.constrained=false", "task.inference=beam_search", "hydra.run.dir=open"]
    run("train.py", "task=vqa", *published, *SHORT, *openly, "data.train_limit=2", folder=tmp_path)
    assert len(predictions_of(tmp_path / "open", "val")) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.answer_list=nowhere.json"], "nowhere.json"),
        (
            ["generation.softmax_over_tree=false", "task.constrained=false", "task.inference=beam_search"],
            "no list of answers",
        ),
        (["generation.beam_size=3"], "generation.beam_size=3 has no effect where every candidate answer is scored"),
        (["task.prompt_type=both"], "task.prompt_type=both is not one of none, src, prev_output"),
        (["criterion=self_critical"], "SelfCritical is trained on rewards, and task=vqa gives targets"),
        (["criterion.constraint_range=[10,20]"], "the task allows its listed answers only"),
    ],
)
def test_what_cannot_work_is_refused_before_the_data_is_read(published, words, message):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["task=vqa", *published, *words])
    with pytest.raises(UserError) as error:
        task = build_task(config, build_source(config), Tokenizer.demo())
        generation_options(config, task)
        build_objective(config, Tokenizer.demo(), task)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["snli_ve", "vqa"])
def test_the_demo_of_each_task_ends_with_scores_and_trivial_baselines(task, tmp_path):
    process = run("train.py", f"task={task}", *SMALL_DEMO, "hydra.run.dir=run", folder=tmp_path)
    assert "most frequent by the words" in process.stdout
    assert Image.open(tmp_path / "run/pictures_test.png").width > 500


def test_the_caption_demo_names_the_second_stage_and_that_one_runs(tmp_path, monkeypatch):
    without_java(tmp_path, monkeypatch)
    process = run("train.py", "task=caption", *SMALL_DEMO, "hydra.run.dir=run", folder=tmp_path)
    assert "caption of another image" in process.stdout
    (command,) = (line for line in process.stdout.splitlines() if "task=caption_scst" in line)
    words = shlex.split(command)[2:]
    process = run("train.py", *words, "trainer.max_steps=2", "validate_every=2", folder=tmp_path)
    assert "cider_d" in process.stdout and "caption of another image" in process.stdout


@pytest.mark.parametrize("task", ["caption", "caption_scst", "snli_ve", "vqa"])
def test_one_batch_can_be_overfitted_in_every_task(task):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"task={task}", "data=tsv", "debug=overfit"])
    rewards = ("caption",) if task == "caption_scst" else ()
    build_objective(
        config, Tokenizer.demo(), SimpleNamespace(processor=SimpleNamespace(tree=None), reward_columns=rewards)
    )
    assert config.ema.decay is None and not config.freezing.embeddings


def test_a_row_without_references_is_named_by_the_count_of_n_grams_or_left_out(data_root, tmp_path):
    lines = (data_root / "caption_stage2_train.tsv").read_text().splitlines()
    cells = lines[3].split("\t")
    lines[3] = "\t".join([*cells[:2], " && ", *cells[3:]])
    write(tmp_path / "train.tsv", [line.split("\t") for line in lines])
    task = SelfCriticalCaption.build(tokenizer=Tokenizer.demo(), image_size=32)
    sizes = {"batch_size": 2, "eval_batch_size": 2}
    data = OFADataModule(
        TSVSource({"train": tmp_path / "train.tsv"}, task.columns, 5), task.columns, task.encode, **sizes
    )
    rows = data.rows("train", task.reward_columns)
    with pytest.raises(RowError, match=r"line 4 of .*train.tsv: there is no reference caption"):
        task.build_reward(rows, skip_broken=False)
    assert task.build_reward(rows, skip_broken=True).cider.frequencies.images == 5
