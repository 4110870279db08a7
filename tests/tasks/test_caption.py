import numpy as np
import pytest
from helpers.datasets import make_row
from helpers.golden import assert_collated, load_json

from data.source import RowError
from ofa.generation import Hypothesis
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import EOS
from tasks.caption import Caption, Captioned, References, SelfCriticalCaption

RECORDED = load_json("fairseq_data.json")
RNG = np.random.default_rng(0)
# What the recorded rows said, as far as their tokens tell; the training rows were cut to four words.
TRAINED = ["A man riding a horse.", "two dogs three, catsone bird", "it's raining!"]
EVALUATED = ["A man riding a horse.", "two dogs&&three, cats&&one 1 bird", "it's raining!"]


def caption_row(caption="a red circle", image_id="42"):
    return make_row(caption=caption, image_id=image_id)


@pytest.fixture(scope="module")
def task():
    return Caption.build(tokenizer=Tokenizer.demo(), image_size=32)


@pytest.mark.parametrize(
    ("case", "kind", "texts", "train"),
    [
        ("caption_dataset_train", Caption, TRAINED, True),
        ("caption_dataset_valid", Caption, EVALUATED, False),
        ("caption_dataset_train_scst", SelfCriticalCaption, EVALUATED, True),
    ],
)
def test_recorded_examples_and_batches_are_made_as_published(published_tokenizer, case, kind, texts, train):
    recorded = RECORDED[case]
    task = kind.build(tokenizer=published_tokenizer, image_size=32, max_target_words=4)
    samples = [task.encode(caption_row(text), RNG, train) for text in texts]
    for sample, example in zip(samples, recorded["examples"], strict=True):
        assert sample.source == example["source"]
        assert sample.target == example["target"]
    assert_collated(samples, recorded)


def test_training_captions_have_no_punctuation_and_a_long_one_is_cut_and_noted(task):
    sample = task.encode(caption_row("a red, circle. " + "and " * 30), RNG, True)
    assert task.processor.tokenizer.decode(sample.target) == "a red circle" + " and" * 17
    assert sample.notes == ("caption cut to 20 words",)


@pytest.mark.parametrize("caption", ["", "  ", "...", "&&"])
def test_an_empty_caption_is_an_error_in_training_and_unscored_in_evaluation(task, caption):
    with pytest.raises(RowError, match="line 3 of train.tsv: the caption is empty"):
        task.encode(caption_row(caption), RNG, True)
    sample = task.encode(caption_row(caption), RNG, False)
    assert sample.truth == References("42", ())
    assert sample.notes == ("no reference captions: not scored",)
    metric = task.metric()
    task.score(metric, Captioned("a red circle", -1.0), sample.truth)
    assert metric.compute() == {}


def test_a_row_without_references_cannot_reward(task):
    stage_2 = SelfCriticalCaption.build(tokenizer=task.processor.tokenizer, image_size=32)
    with pytest.raises(RowError, match="no reference caption for the reward"):
        stage_2.encode(caption_row("&& &&"), RNG, True)


def test_an_answer_is_text_without_punctuation_and_its_result_names_the_image(task):
    tokens = [*task.processor.tokenizer.encode("a red circle, and a blue square."), EOS]
    prediction = task.decode(Hypothesis(tokens, -0.5, [0.0] * len(tokens)), References("42", ()))
    assert prediction == Captioned("a red circle and a blue square", -0.5)
    assert task.server_record("7", prediction, References("42", ())) == {"image_id": 42, "caption": prediction.caption}
    assert task.server_record("7", prediction, References("x", ()))["image_id"] == "x"


def test_a_perfect_caption_scores_best_and_images_have_one_size(task):
    truths = [
        task.encode(caption_row(f"a {colour} circle&&the {colour} circle", colour), RNG, False).truth
        for colour in ("red", "blue", "green")
    ]
    scores = []
    for captions in (["a red circle", "a blue circle", "a green circle"], ["a red circle"] * 3):
        metric = task.metric()
        for caption, truth in zip(captions, truths, strict=True):
            task.score(metric, Captioned(caption, 0.0), truth)
        scores.append(metric.compute()["cider_d"])
    assert scores[0] > 2 * scores[1]
    sample = task.encode(caption_row("word " * 40), RNG, True)
    drawn = [task.draw(sample.image, Captioned(text, 0.0), truths[0]) for text in ("a", "word " * 50)]
    assert drawn[0].size == drawn[1].size
