"""Questions about pictures to answers, in batches; a picture that cannot be used costs its own answer alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ofa.inputs import InputError
from ofa.pipeline import Pipeline
from prediction.questions import PictureQuestion


def answer_each(
    pipe: Pipeline, questions: Sequence[PictureQuestion]
) -> Iterator[tuple[PictureQuestion, dict[str, Any]]]:
    """Each question with its answer, in order; {"error": why} for one that cannot be asked."""
    done = 0
    while done < len(questions):
        batch = questions[done : done + pipe.batch_size]
        try:
            answers = _ask(pipe, batch)
        except InputError:
            answers = [_ask_alone(pipe, question) for question in batch]
        yield from zip(batch, answers, strict=True)
        done += len(batch)


def _ask_alone(pipe: Pipeline, question: PictureQuestion) -> dict[str, Any]:
    try:
        (answer,) = _ask(pipe, [question])
    except InputError as error:
        return {"error": str(error)}
    return answer


def _ask(pipe: Pipeline, batch: Sequence[PictureQuestion]) -> list[dict[str, Any]]:
    texts = {name: [question.texts.get(name) for question in batch] for name in batch[0].texts}
    return pipe([question.path for question in batch], **texts)
