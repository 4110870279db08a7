"""Predictions in batches; an unusable image affects only its own prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from ofa.inputs import InputError, read_image
from ofa.pipeline import Pipeline
from ofa.prediction.inputs import PredictionInput


def predict_each(
    pipe: Pipeline, inputs: Sequence[PredictionInput]
) -> Iterator[tuple[PredictionInput, Image.Image | InputError, dict[str, Any]]]:
    """Each input with its image and prediction; {"error": reason} for an input that cannot be used."""
    done = 0
    while done < len(inputs):
        batch = inputs[done : done + pipe.batch_size]
        done += len(batch)
        images = [_read(item) for item in batch]
        readable = [i for i, image in enumerate(images) if isinstance(image, Image.Image)]
        predictions = [{"error": str(image)} for image in images]
        found = _predict(pipe, [(batch[i], images[i]) for i in readable])
        for i, prediction in zip(readable, found, strict=True):
            predictions[i] = prediction
        yield from zip(batch, images, predictions, strict=True)


def check_texts(pipe: Pipeline, inputs: Sequence[PredictionInput]) -> None:
    """Check the texts before the first image, if all images have the same.

    Raises:
        InputError: the model cannot be prompted with them.
    """
    first = inputs[0].texts
    if all(item.texts == first for item in inputs):
        texts = [first.get(name) for name in pipe.processor.text_inputs]
        pipe.build_prompt(*texts)


def _read(item: PredictionInput) -> Image.Image | InputError:
    try:
        return read_image(item.path)
    except InputError as error:
        return error


def _predict(pipe: Pipeline, batch: Sequence[tuple[PredictionInput, Image.Image]]) -> list[dict[str, Any]]:
    """Predictions for readable images; if a text is invalid, each input is tried separately to find which."""
    if not batch:
        return []
    texts = {name: [item.texts.get(name) for item, _ in batch] for name in batch[0][0].texts}
    try:
        return pipe([image for _, image in batch], **texts)
    except InputError as error:
        if len(batch) == 1:
            return [{"error": str(error)}]
        return [prediction for one in batch for prediction in _predict(pipe, [one])]
