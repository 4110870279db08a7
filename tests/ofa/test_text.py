import pytest
from helpers.golden import load_json

from ofa.tokenizer import clean_caption, clean_question

RECORDED = load_json("fairseq_text.json")
RECORDED_WORDS = 6


def as_question(text):
    """The published code adds the question mark after its `pre_question`, whose output is recorded."""
    return text if text.endswith("?") else text + "?"


@pytest.mark.parametrize("case", RECORDED["pre_caption"], ids=lambda case: repr(case["text"]))
def test_recorded_captions_are_cleaned_as_published(case):
    assert clean_caption(case["text"]) == case["out_unlimited"]
    assert clean_caption(case["text"], RECORDED_WORDS) == case["out"]


@pytest.mark.parametrize("case", RECORDED["pre_question"], ids=lambda case: repr(case["text"]))
def test_recorded_questions_are_cleaned_as_published(case):
    assert clean_question(case["text"]) == as_question(case["out_unlimited"])
    assert clean_question(case["text"], RECORDED_WORDS) == as_question(case["out"])


def test_brackets_of_person_leading_punctuation_and_question_marks_are_treated_as_published():
    assert clean_caption("a <person> waves") == "a person waves"
    assert clean_question("is a <person> waving?") == "is a <person> waving?"
    assert clean_caption(" ,a") == ",a"
    assert clean_caption(",a") == "a"
    assert clean_question("what is on the table?", 3) == "what is on?"
