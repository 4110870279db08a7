"""Questions about pictures to answers, in batches; a picture that cannot be used costs its own answer alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from ofa.inputs import InputError, read_image
from ofa.pipeline import Pipeline
from prediction.questions import PictureQuestion


def answer_each(
    pipe: Pipeline, questions: Sequence[PictureQuestion]
) -> Iterator[tuple[PictureQuestion, Image.Image | InputError, dict[str, Any]]]:
    """Each question with its picture and its answer, in order; {"error": why} for one that cannot be asked."""
    done = 0
    while done < len(questions):
        batch = questions[done : done + pipe.batch_size]
        done += len(batch)
        images = [_read(question) for question in batch]
        readable = [i for i, image in enumerate(images) if isinstance(image, Image.Image)]
        answers = [{"error": str(image)} for image in images]
        for i, answer in zip(readable, _ask(pipe, [(batch[i], images[i]) for i in readable]), strict=True):
            answers[i] = answer
        yield from zip(batch, images, answers, strict=True)


def check_texts(pipe: Pipeline, questions: Sequence[PictureQuestion]) -> None:
    """Refuses what could not be asked about any picture, where all are asked the same.

    Raises:
        InputError: the texts are no question for this model.
    """
    first = questions[0].texts
    if all(question.texts == first for question in questions):
        texts = [first.get(name) for name in pipe.processor.text_inputs]
        pipe.build_prompt(*texts)


def _read(question: PictureQuestion) -> Image.Image | InputError:
    try:
        return read_image(question.path)
    except InputError as error:
        return error


def _ask(pipe: Pipeline, batch: Sequence[tuple[PictureQuestion, Image.Image]]) -> list[dict[str, Any]]:
    """Answers to questions about readable pictures; where a text is at fault, each is asked by itself to find which."""
    if not batch:
        return []
    texts = {name: [question.texts.get(name) for question, _ in batch] for name in batch[0][0].texts}
    try:
        return pipe([image for _, image in batch], **texts)
    except InputError as error:
        if len(batch) == 1:
            return [{"error": str(error)}]
        return [answer for one in batch for answer in _ask(pipe, [one])]
