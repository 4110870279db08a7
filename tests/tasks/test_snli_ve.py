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
from tasks.snli_ve import SNLIVE

RECORDED = load_json("fairseq_data.json")
RNG = np.random.default_rng(0)
ROWS = [
    ("A man sleeps.", "a man on a bed", "contradiction"),
    ("Two dogs", "dogs in a park", "entailment"),
    ("x", "y", "neutral"),
]


def entailment_row(hypothesis="there is a red circle", caption="a picture", label="entailment"):
    return make_row(hypothesis=hypothesis, caption=caption, label=label)


@pytest.fixture(scope="module")
def task():
    return SNLIVE.build(tokenizer=Tokenizer.demo(), image_size=32)


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("snli_ve_dataset_none", {"use_caption": False, "prompt_type": "none"}),
        ("snli_ve_dataset_prev_output_caption", {"use_caption": True, "prompt_type": "prev_output"}),
    ],
)
def test_recorded_examples_and_batches_are_made_as_published(published_tokenizer, case, options):
    recorded = RECORDED[case]
    task = SNLIVE.build(tokenizer=published_tokenizer, image_size=32, **options)
    samples = [task.encode(entailment_row(*row), RNG, True) for row in ROWS]
    assert_collated(samples, recorded)
    assert [[0, *sample.prefix] for sample in samples] == recorded["batch"]["decoder_prompts"]
    for sample, example in zip(samples, recorded["examples"], strict=True):
        allowed = [task.processor.tree.next_tokens(tokens) for tokens in ([], sample.target[:-1])]
        assert allowed == example["constraint_allowed"][-2:]


def test_bad_rows_are_named(task):
    for values, train, message in (
        (dict(label="yes"), True, "line 3 of train.tsv: the label 'yes' is not one of entailment, neutral"),
        (dict(label="unknown"), False, "the label 'unknown' is not one of"),
        (dict(label=""), True, "the label '' is not one of"),
        (dict(hypothesis="  "), True, "the hypothesis is empty"),
    ):
        with pytest.raises(RowError, match=message):
            task.encode(entailment_row(**values), RNG, train)


def test_a_row_without_label_is_answered_but_not_scored(task):
    sample = task.encode(entailment_row(label=""), RNG, False)
    assert (sample.target, sample.notes) == ([], ("no label: not scored",))
    metric = task.metric()
    task.score(metric, Answer("yes", -0.1), sample.truth)
    assert metric.compute() == {}


def test_accuracy_per_class_and_the_confusion_matrix_are_counted(task):
    metric = task.metric()
    answered = [("entailment", "yes"), ("entailment", "no"), ("neutral", "maybe"), ("contradiction", "maybe")]
    for label, answer in answered:
        truth = task.encode(entailment_row(label=label), RNG, False).truth
        task.score(metric, Answer(answer, -0.1), truth)
    by_class = {"accuracy_entailment": 0.5, "accuracy_neutral": 1.0, "accuracy_contradiction": 0.0}
    assert metric.compute() == {"accuracy": 0.5, **by_class}
    confusion = task.details(metric)["confusion"]
    assert confusion["entailment"] == {"entailment": 1, "neutral": 0, "contradiction": 1}
    assert confusion["contradiction"]["neutral"] == 1


def test_a_hypothesis_becomes_its_answer_and_is_drawn(task):
    tokens = [*task.processor.tokenizer.encode("maybe"), EOS]
    sample = task.encode(entailment_row(), RNG, True)
    prediction = task.decode(Hypothesis(tokens, -0.5, [-0.5, 0.0]), sample.truth)
    assert prediction == Answer("maybe", -0.5)
    assert task.draw(sample.image, prediction, sample.truth).width == 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_type": "source"}, "prompt_type=source is not one of none, src, prev_output"),
        ({"inference": "beams"}, "inference=beams is not one of all_candidates, beam_search"),
        ({"prompt_type": "src", "inference": "beam_search"}, "set inference=all_candidates"),
    ],
)
def test_choices_that_cannot_work_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SNLIVE.build(tokenizer=Tokenizer.demo(), **options)
