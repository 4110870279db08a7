"""The answers column: answers and their confidences."""

from __future__ import annotations

from math import isfinite

from data.source import Row


def parse_answers(row: Row) -> dict[str, float]:
    """The confidence of each answer in a column such as `1.0|!+red&&0.3|!+dark red`; an empty column has none.

    Raises:
        RowError: an entry is not a confidence from 0 to 1 and an answer.
    """
    confidences = {}
    for entry in filter(None, row.values["answers"].strip().split("&&")):
        number, mark, answer = entry.partition("|!+")
        try:
            confidence = float(number)
        except ValueError:
            confidence = float("nan")
        if not mark or not answer.strip() or not isfinite(confidence) or not 0 <= confidence <= 1:
            raise row.error(
                f"the answer {entry!r} is not of the form 0.6|!+yes, a confidence from 0 to 1 and an answer"
            )
        confidences[answer.strip()] = confidence
    return confidences
