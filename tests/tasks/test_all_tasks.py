"""All tasks on files of `data.prepare`, on demo files, and on the answers of a teacher."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import (
    encoded_image,
    make_row,
    write_jpeg,
    write_karpathy,
    write_refer,
    write_snli_ve,
    write_vqa,
)
from helpers.demo import demo_files

from data.cells import CLIPPED
from data.demo.scenes import SceneConfig
from data.layout import find_task, task_names
from data.prepare.__main__ import main
from data.source import RowError
from data.teacher_answers import AnsweredRows, TeacherAnswers
from data.tsv import TSVFile
from ofa.generation import Hypothesis
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BIN_OFFSET, EOS
from tasks.caption import Caption, SelfCriticalCaption
from tasks.refcoco import RefCOCO
from tasks.snli_ve import SNLIVE
from tasks.vqa import VQA

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", task_names())
def test_the_columns_that_a_task_reads_are_those_of_its_layout(name):
    task = find_task(name)
    assert len(task.layout.columns) == task.n_columns and task.layout.truth == task.answer_column
    assert {column: task.layout.columns.index(column) for column in task.columns} == task.columns


def samples(name, words, folder, file, task, train):
    assert main([name, *words, "--out", str(folder), "--workers", "1"]) == 0
    rows = TSVFile(folder / file, task.columns, task.n_columns)
    return [task.encode(row, RNG, train=train) for row in rows]


def targets(task, samples):
    return [task.processor.tokenizer.decode(sample.target[:-1]).strip() for sample in samples]


def test_prepared_boxes_are_trained_on(tmp_path):
    task = RefCOCO.build(tokenizer=Tokenizer.demo(), image_size=64, max_image_size=64)
    (sample,) = samples("refcoco", write_refer(tmp_path), tmp_path, "refcoco_val.tsv", task, train=True)
    assert sample.target[:4] == [BIN_OFFSET, BIN_OFFSET, BIN_OFFSET + 999, BIN_OFFSET + 999]
    assert sample.truth.text == "dog" and sample.notes == ()


def test_prepared_captions_are_trained_on_rewarded_and_scored(tmp_path):
    words, settings = write_karpathy(tmp_path), dict(tokenizer=Tokenizer.demo(), image_size=32)
    task = Caption.build(**settings)
    trained = samples("caption", words, tmp_path, "caption_stage1_train.tsv", task, train=True)
    assert targets(task, trained[:2]) == ["a dog", "a dog a cat"]
    task = SelfCriticalCaption.build(**settings)
    rewarded = samples("caption", words, tmp_path, "caption_stage2_train.tsv", task, train=True)
    assert rewarded[0].truth.captions == ("a dog", "a dog  a cat")
    (scored,) = samples("caption", words, tmp_path, "caption_val.tsv", task, train=False)
    assert (scored.truth.image_id, scored.truth.captions) == ("3", ("red", "blue"))


def test_prepared_entailment_is_trained_on(tmp_path):
    task = SNLIVE.build(tokenizer=Tokenizer.demo(), image_size=32)
    trained = samples("snli_ve", write_snli_ve(tmp_path), tmp_path, "snli_ve_train.tsv", task, train=True)
    assert [sample.truth.answer for sample in trained] == ["yes", "maybe"]
    assert trained[0].truth.caption == "two men sit."


def test_prepared_questions_are_trained_on_scored_and_answered(tmp_path):
    words = write_vqa(tmp_path)
    assert main(["vqa", *words, "--out", str(tmp_path), "--workers", "1"]) == 0
    task = VQA.build(tokenizer=Tokenizer.demo(), image_size=32, answer_list=tmp_path / "answers.json")
    assert task.processor.answers == list(json.loads((tmp_path / "answers.json").read_text()))
    trained = samples("vqa", words, tmp_path, "vqa_train.tsv", task, train=True)
    assert [sample.weight for sample in trained] == [1.0, 1.0]
    scored = samples("vqa", words, tmp_path, "vqa_val.tsv", task, train=False)
    assert scored[0].truth.confidences == {"yes": 1.0, "no": 0.6, "maybe": 0.3}
    answered = samples("vqa", words, tmp_path, "vqa_test.tsv", task, train=False)
    assert all(not sample.truth.confidences for sample in answered)


def test_own_questions_are_trained_on_with_the_list_made_of_them(tmp_path):
    write_jpeg(tmp_path / "a.jpg")
    table, out = tmp_path / "own.csv", tmp_path / "own.tsv"
    table.write_text("image,question,answers\na.jpg,Is it?,no&&Yes\na.jpg,Which?,0.3|!+C&&1.0|!+C++\n")
    assert main(["csv", str(table), "--task", "vqa", "--out", str(out), "--workers", "1"]) == 0
    task = VQA.build(tokenizer=Tokenizer.demo(), image_size=32, answer_list=tmp_path / "own.answers.json")
    trained = [task.encode(row, RNG, train=True) for row in TSVFile(out, task.columns, task.n_columns)]
    assert targets(task, trained) == ["no", "C++"]


SMALL = {"tokenizer": Tokenizer.demo(), "image_size": 32}


@pytest.fixture(scope="module")
def vqa(tmp_path_factory):
    path = tmp_path_factory.mktemp("answers") / "answers.json"
    path.write_text('["red", "dark blue"]')
    return VQA.build(**SMALL, answer_list=path)


def trained(task, row, answer):
    """The sample of a row whose answer is replaced."""
    answers = TeacherAnswers(Path("p.jsonl"), task.answer_column, {row.values["uniq_id"]: task.format_answer(answer)})
    return task.encode(AnsweredRows([row], answers)[0], RNG, True)


@pytest.mark.parametrize("bins", [(0, 0, 999, 999), (111, 83, 333, 583), (7, 998, 8, 999), (500, 3, 501, 4)])
@pytest.mark.parametrize("size", [(60, 40), (640, 427), (333, 500)])
def test_every_bin_of_a_predicted_box_is_the_target_as_the_teacher_wrote_it(bins, size):
    task = RefCOCO.build(**SMALL, max_image_size=32)
    row = make_row(text="the red circle", box="1,1,5,5", image=encoded_image(size=size))
    tokens = [*(BIN_OFFSET + number for number in bins), EOS]
    prediction = task.decode(Hypothesis(tokens, -0.5, [0.0] * 5), task.encode(row, RNG, False).truth)
    written = json.loads(json.dumps(dataclasses.asdict(prediction)))  # as in predictions.jsonl
    sample = trained(task, row, written["box"])
    assert sample.target == tokens and set(sample.notes) <= {CLIPPED}


def test_a_box_outside_its_image_is_a_broken_row_that_names_the_predictions():
    task = RefCOCO.build(**SMALL, max_image_size=32)
    row = make_row(text="the red circle", box="1,1,5,5", image=encoded_image(size=(60, 40)))
    message = "line 3 of train.tsv: .* outside its image .*, where box is the teacher's, from"
    with pytest.raises(RowError, match=message):
        trained(task, row, [70.0, 1.0, 75.0, 5.0])


@pytest.mark.parametrize("own", ["a blue square", ""])
def test_a_caption_is_the_teachers_and_a_row_needs_none_of_its_own(own):
    task = Caption.build(**SMALL)
    sample = trained(task, make_row(caption=own, image_id="42"), "a red circle")
    assert sample.target == [*task.processor.tokenizer.encode("a red circle"), EOS]


@pytest.mark.parametrize("answer", ["yes", "maybe", "no"])
def test_entailment_is_trained_on_as_the_label_of_the_answer(answer):
    task = SNLIVE.build(**SMALL)
    sample = trained(task, make_row(hypothesis="a circle", caption="shapes", label="entailment"), answer)
    assert sample.truth.answer == answer and sample.target == task.encode_answer(answer, None)


def test_an_answer_to_a_question_is_trained_on_with_full_confidence(vqa):
    row = make_row(question="what color", answers="0.3|!+red", objects="")
    sample = trained(vqa, row, "dark blue")
    assert sample.target == vqa.encode_answer("dark blue", row) and sample.weight == 1.0
    with pytest.raises(RowError, match="the answer 'pink' is not in the list of 2 answers, where answers is the teach"):
        trained(vqa, row, "pink")


@pytest.mark.parametrize(
    ("kind", "answer", "message"),
    [
        (RefCOCO, [1, 2, 3], r"the box \[1, 2, 3\] is not four numbers"),
        (RefCOCO, [1, 2, 3, float("nan")], "is not four numbers"),
        (RefCOCO, [1, 2, 3, "4"], "is not four numbers"),
        (RefCOCO, [0, 0, 5, True], "is not four numbers"),
        (RefCOCO, "1,2,3,4", "the box 1,2,3,4 is not four numbers"),
        (RefCOCO, [9.0, 1.0, 5.0, 5.0], r"the box \[9.0, 1.0, 5.0, 5.0\] has no area"),
        (RefCOCO, [1, 5, 5, 5], "has no area"),
        (Caption, "", "the caption is empty"),
        (Caption, " .", "the caption is empty"),
        (Caption, 5, "the caption 5 is not text"),
        (Caption, None, "the caption None is not text"),
        (SNLIVE, "entailment", "the answer 'entailment' is not one of yes, maybe, no"),
        (SNLIVE, ["yes"], "is not one of yes, maybe, no"),
        (VQA, 3, "the answer 3 is not text"),
    ],
)
def test_what_is_no_answer_of_the_task_is_refused(kind, answer, message, vqa):
    task = vqa if kind is VQA else kind.build(**SMALL, **({"max_image_size": 32} if kind is RefCOCO else {}))
    with pytest.raises(ValueError, match=message):
        task.format_answer(answer)


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
