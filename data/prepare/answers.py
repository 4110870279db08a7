"""Answers to questions: normalized and counted as VQA does, as cells, and as lists in JSON.

The rules are those of visualqa.org/evaluation.html: lower case, no articles, no punctuation except within numbers,
apostrophes and colons, numbers up to ten as digits, contractions with their apostrophe.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data.cells import parse_answers
from data.layout import QUESTIONS, join_cell
from data.tsv import TSVFile
from ofa.answers import order_answers
from ofa.atomic_write import atomic_write
from ofa.errors import UserError
from ofa.plain_pickle import load_plain_pickle

_ARTICLES = {"a", "an", "the"}
_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
# Only those without another meaning if the apostrophe is missing: not well, ill, its, were, shell, wed, lets.
_CONTRACTIONS = {
    word.replace("'", ""): word
    for word in (
        "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
        "i'd've i'm i've isn't it'd it'll might've mightn't must've mustn't needn't o'clock oughtn't she's should've "
        "shouldn't somebody's someone's something's that's there'd there're there's they'd they'll they're they've "
        "wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've "
        "why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"
    ).split()
}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def normalise_answer(answer: str) -> str:
    """The answer in the form in which answers are compared.

    >>> normalise_answer("The two-door car, dont you see?")
    "2 door car don't you see"
    >>> normalise_answer("1,000.5")
    '1000.5'
    """
    text = re.sub(r"\s+", " ", answer).strip()
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = "".join(" " if letter in _PUNCTUATION else letter for letter in text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def answers_cell(answers: Sequence[str], allowed: set[str] | None = None) -> str:
    """People's answers as a cell `1.0|!+red&&0.3|!+dark red`, the most frequent first; those allowed only.

    The confidence is three times the share of people who gave the answer, at most 1: three of ten make 0.9.
    """
    counts = Counter(filter(None, answers)).most_common()
    return _cell((a, 3 * count / len(answers)) for a, count in counts if allowed is None or a in allowed)


def normalise_cell(confidences: Mapping[str, float]) -> str:
    """Answers and their confidences as a cell; the confidences of equal ones are added, up to 1."""
    normalised: dict[str, float] = {}
    for answer, confidence in confidences.items():
        text = normalise_answer(answer)
        normalised[text] = normalised.get(text, 0.0) + confidence
    return _cell((answer, confidence) for answer, confidence in normalised.items() if answer)


def _cell(confidences: Iterable[tuple[str, float]]) -> str:
    return join_cell(f"{round(min(1.0, confidence), 2)}|!+{answer}" for answer, confidence in confidences)


def common_answers(commonest: Iterable[str], min_count: int) -> list[str]:
    """The answers that are the most common one of at least `min_count` questions, the most frequent first."""
    counts = Counter(filter(None, commonest))
    by_frequency = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [answer for answer, count in by_frequency if count >= min_count]


def convert_answers(source: Path, target: Path) -> int:
    """Writes the published list, a pickle of which nothing is executed, as JSON; returns its length."""
    content = load_plain_pickle(source)
    if not isinstance(content, dict):
        raise UserError(f"{source} holds a {type(content).__name__}, not a dict of answers and labels")
    answers = order_answers(list(content.items()), source)
    write_answers(answers, target)
    return len(answers)


def write_answers_of(tsv: Path) -> None:
    """Writes and prints the list of answers in a file of questions, `x.answers.json` for `x.tsv`, if it has any."""
    rows = TSVFile(tsv, {"answers": QUESTIONS.columns.index("answers")})
    given = filter(None, map(parse_answers, rows))
    answers = common_answers((max(confidences, key=confidences.__getitem__) for confidences in given), min_count=1)
    if answers:
        target = tsv.with_suffix(".answers.json")
        write_answers(answers, target)
        print(f"  task.answer_list={target} has the {len(answers)} answers of this file")


def write_answers(answers: Sequence[str], target: Path) -> None:
    """Writes {"answer": index} atomically.

    Raises:
        UserError: it cannot be written.
    """
    content = json.dumps({answer: label for label, answer in enumerate(answers)}, indent=0, ensure_ascii=False) + "\n"
    try:
        atomic_write(target, lambda part: part.write_text(content, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror})") from error
