import json

import numpy as np
import pytest
from helpers.datasets import make_row
from helpers.golden import assert_collated, load_json

from data.source import RowError
from ofa.errors import UserError
from ofa.generation import Hypothesis
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import EOS
from tasks.closed import Answer
from tasks.vqa import VQA, AnnotatedQuestion

RECORDED = load_json("fairseq_data.json")
RNG = np.random.default_rng(0)
ROWS = [
    ("Is this a dog?", "1.0|!+yes&&0.3|!+no", "dog&&cat&&tree"),
    ("how many dogs", "0.6|!+two dogs", "dog"),
    ("What color?", "0.9|!+red&&0.9|!+no", ""),
]


def question_row(question="what color is the circle?", answers="1.0|!+red", objects=""):
    return make_row(question=question, answers=answers, objects=objects)


@pytest.fixture
def answer_list(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"yes": 0, "no": 1, "two dogs": 2, "red": 3}))
    return path


@pytest.fixture
def task(answer_list):
    return VQA.build(tokenizer=Tokenizer.demo(), image_size=32, answer_list=answer_list)


@pytest.mark.parametrize(
    ("case", "use_objects"),
    [("vqa_dataset_none", False), ("vqa_dataset_src", True), ("vqa_dataset_prev_output", False)],
)
def test_recorded_examples_and_batches_are_made_as_published(published_tokenizer, answer_list, case, use_objects):
    recorded = RECORDED[case]
    options = {"use_objects": use_objects, "prompt_type": case.removeprefix("vqa_dataset_")}
    task = VQA.build(tokenizer=published_tokenizer, image_size=32, answer_list=answer_list, **options)
    samples = [task.encode(question_row(*row), RNG, True) for row in ROWS]
    batch = assert_collated(samples, recorded)
    assert batch.weights.tolist() == pytest.approx(recorded["batch"]["conf"])
    prefixes = recorded["batch"]["prefix_tokens"]
    assert (batch.prefix_tokens.tolist() if batch.prefix_tokens is not None else [[], [], []]) == prefixes
    for sample, example in zip(samples, recorded["examples"], strict=True):
        assert [0, *sample.prefix] == example["decoder_prompt"]
        assert sample.truth.confidences == example["ref_dict"]
        answer = [tokens for tokens in example["constraint_allowed"] if tokens]
        assert [task.processor.tree.next_tokens(sample.target[:i]) for i in range(len(answer))] == answer


def test_objects_follow_the_question_up_to_a_maximum(answer_list):
    task = VQA.build(tokenizer=Tokenizer.demo(), image_size=32, answer_list=answer_list, max_objects=2)
    sample = task.encode(question_row(objects="circle&&square&&star"), RNG, True)
    assert task.processor.tokenizer.decode(sample.source) == "what color is the circle? object: circle square"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("", "line 3 of train.tsv: the question has no answer to train on"),
        ("1.0|!+blue", "the answer 'blue' is not in the list of 4 answers"),
        ("sure|!+red", r"the answer 'sure\|!\+red' is not of the form 0.6\|!\+yes"),
        ("2.0|!+red", "a confidence from 0 to 1"),
        ("nan|!+red", "a confidence from 0 to 1"),
        ("0.5|!+", "is not of the form"),
        ("red", "is not of the form"),
    ],
)
def test_bad_answers_and_an_empty_question_are_named(task, answers, message):
    with pytest.raises(RowError, match=message):
        task.encode(question_row(answers=answers), RNG, True)
    with pytest.raises(RowError, match="the question is empty"):
        task.encode(question_row(question="  "), RNG, True)


def test_evaluation_takes_answers_outside_the_list_and_questions_without(task):
    unknown = task.encode(question_row(answers="1.0|!+blue"), RNG, False)
    assert unknown.truth.confidences == {"blue": 1.0}
    silent = task.encode(question_row(answers=""), RNG, False)
    assert silent.notes == ("no answer: not scored",)
    metric = task.metric()
    task.score(metric, Answer("red", -0.1), silent.truth)
    assert metric.compute() == {}


def test_the_score_is_the_confidence_of_the_predicted_answer(task):
    metric = task.metric()
    truth = AnnotatedQuestion("what color?", {"red": 0.9, "dark red": 0.3})
    for answer in ("red", "dark red", "blue"):
        task.score(metric, Answer(answer, -0.1), truth)
    assert metric.compute()["vqa_score"].item() == pytest.approx(0.4)


def test_answers_come_from_the_list_and_results_name_the_question(task):
    tokens = [*task.processor.tokenizer.encode("two dogs"), EOS]
    truth = AnnotatedQuestion("how many?", {})
    prediction = task.decode(Hypothesis(tokens, -0.5, [0.0] * len(tokens)), truth)
    assert prediction == Answer("two dogs", -0.5)
    assert task.server_record("17", prediction, truth) == {"question_id": 17, "answer": "two dogs"}
    assert task.draw(task.encode(question_row(), RNG, True).image, prediction, truth).width == 256


def test_open_answers_need_no_list_and_cannot_score_candidates():
    task = VQA.build(tokenizer=Tokenizer.demo(), image_size=32, constrained=False, inference="beam_search")
    assert task.processor.tree is None and task.processor.generation.prefix_tree is None
    sample = task.encode(question_row(answers="1.0|!+purple"), RNG, True)
    assert task.processor.tokenizer.decode(sample.target) == "purple"
    with pytest.raises(UserError, match="set inference=beam_search"):
        VQA.build(tokenizer=Tokenizer.demo(), constrained=False)
    with pytest.raises(UserError, match="^answer_list=FILE has to be given"):
        VQA.build(tokenizer=Tokenizer.demo())
