"""Answer lists as JSON: `python -m data.prepare answers trainval_ans2label.pkl answers.json`, `write_answers_of`.

The published list is a pickle of {answer: label}. Nothing in it is executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from data.answers import parse_answers
from data.prepare.columns import LAYOUTS
from data.prepare.vqa_answers import common_answers
from data.tsv import TSVFile
from ofa.answers import order_answers
from ofa.errors import UserError
from ofa.plain_pickle import load_plain_pickle


def convert_answers(source: Path, target: Path) -> int:
    """Writes {"answer": label} in the order of the labels; returns how many there are.

    Raises:
        UserError: the source is no pickle of answers and their labels 0 .. n - 1, or the target cannot be written.
    """
    content = load_plain_pickle(source)
    if not isinstance(content, dict):
        raise UserError(
            f"{source} holds a {type(content).__name__}, not the dict of answers and labels that is expected"
        )
    answers = order_answers(list(content.items()), source)
    write_answers(answers, target)
    return len(answers)


def write_answers_of(tsv: Path) -> None:
    """Lists what can be learnt from a file of questions, `x.answers.json` for `x.tsv`, and says so; none of no answers.

    Raises:
        UserError: it cannot be written.
    """
    rows = TSVFile(tsv, {"answers": LAYOUTS["vqa"].columns.index("answers")})
    given = filter(None, map(parse_answers, rows))
    answers = common_answers((max(confidences, key=confidences.__getitem__) for confidences in given), min_count=1)
    if answers:
        target = tsv.with_suffix(".answers.json")
        write_answers(answers, target)
        print(f"  task.answer_list={target} has the {len(answers)} answers that training on it learns")


def write_answers(answers: Sequence[str], target: Path) -> None:
    """Writes {"answer": index}, the whole file or none of it.

    Raises:
        UserError: it cannot be written.
    """
    labels = {answer: label for label, answer in enumerate(answers)}
    unfinished = target.with_name(f"{target.name}.tmp")
    try:
        unfinished.write_text(json.dumps(labels, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(unfinished, target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror})") from error
