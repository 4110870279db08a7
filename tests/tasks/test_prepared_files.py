"""Files that `python -m data.prepare` makes are those that the tasks read."""

import json

import numpy as np
import pytest
from helpers.datasets import write_jpeg, write_karpathy, write_refer, write_snli_ve, write_vqa

from data.layout import find_task, task_names
from data.prepare.__main__ import main
from data.tsv import TSVFile
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BIN_OFFSET
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
