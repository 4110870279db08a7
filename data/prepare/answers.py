"""A published answer list as JSON: `python -m data.prepare.answers trainval_ans2label.pkl answers.json`.

The published list is a pickle of {answer: label}. Nothing in it is executed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ofa.answers import order_answers
from ofa.errors import UserError
from ofa.plain_pickle import load_plain_pickle


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare.answers", description="Convert a published answer list, a pickle, to JSON."
    )
    parser.add_argument("pickle", type=Path, help="the published file, trainval_ans2label.pkl")
    parser.add_argument("json", type=Path, help="the file to write")
    paths = parser.parse_args(arguments)
    try:
        answers = convert_answers(paths.pickle, paths.json)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{answers} answers written to {paths.json}")
    return 0


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
    labels = {answer: label for label, answer in enumerate(order_answers(list(content.items()), source))}
    try:
        target.write_text(json.dumps(labels, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror})") from error
    return len(labels)


if __name__ == "__main__":
    sys.exit(main())
