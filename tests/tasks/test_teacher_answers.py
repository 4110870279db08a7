"""What a teacher answered, written into a row of training and trained from there."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import encoded_image, make_row

from data.cells import CLIPPED
from data.source import RowError
from data.teacher_answers import AnsweredRows, TeacherAnswers
from ofa.generation import Hypothesis
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BIN_OFFSET, EOS
from tasks.caption import Caption
from tasks.refcoco import RefCOCO
from tasks.snli_ve import SNLIVE
from tasks.vqa import VQA

RNG = np.random.default_rng(0)
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
