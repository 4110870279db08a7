"""Batch prediction for images without ground truth: `predict`."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from tqdm import tqdm

from ofa.checkpoint import read_task, weight_files
from ofa.config import check_choice
from ofa.errors import UserError
from ofa.inputs import InputError, read_image
from ofa.pipeline import Pipeline, pipeline
from ofa.prediction.drawing import save_image
from ofa.prediction.inputs import PredictionInput, read_inputs
from ofa.prediction.journal import Journal
from ofa.processors import PROCESSORS
from ofa.processors.settings import to_task_settings

PRECISIONS = {"32-true": torch.float32, "bf16-true": torch.bfloat16}  # names as in Lightning, kept in the settings


def predict(
    checkpoint: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    task: str | None = None,
    texts: Mapping[str, str] | None = None,
    images: bool = True,
    precision: str = "32-true",
    batch_size: int | None = None,
    tokenizer: str | None = None,
    answers: str | None = None,
    device: str | None = None,
) -> int:
    """Writes predictions.jsonl and annotated images; an interrupted run resumes where it stopped.

    Args:
        checkpoint, batch_size, tokenizer, answers, device: as for `ofa.pipeline`.
        source: an image, a folder of images, or a CSV file (see `read_inputs`).
        task: name of the pipeline; None: the task of the checkpoint.
        texts: texts for all images, by the names of the pipeline's arguments.
        images: draw each prediction on its image.
        precision: one of PRECISIONS.

    Returns:
        The number of inputs with a prediction.

    Raises:
        UserError: the checkpoint or the inputs cannot be used, or the folder holds predictions of other settings.
    """
    if task is None:
        settings = read_task(checkpoint)
        if settings is None:
            raise UserError(
                f"{checkpoint} does not contain its task; set it (predict.py: task=refcoco, ofa predict: --task "
                "visual-grounding)"
            )
        task = settings.pipeline
    check_choice(task, "task", PROCESSORS)
    folder = Path(output)
    inputs = read_inputs(Path(source), task, texts or {}, leave_out=folder)
    pipe = pipeline(
        task,
        checkpoint,
        tokenizer=tokenizer,
        device=device,
        dtype=PRECISIONS[precision],
        batch_size=batch_size,
        answers=answers,
    )
    check_texts(pipe, inputs)
    with Journal(folder, _settings(checkpoint, pipe, precision), inputs) as journal:
        pending = journal.pending
        interval = 0.1 if sys.stderr.isatty() else 30  # seconds between two states of the bar
        predictions = predict_each(pipe, [item for _, item in pending])
        predictions = tqdm(predictions, task, len(pending), mininterval=interval)
        for (number, _), (item, image, prediction) in zip(pending, predictions, strict=True):
            if images and "error" not in prediction:
                save_image(folder / "pictures", number, item, image, prediction)
            journal.write(item, prediction)
    n_predicted = len(inputs) - journal.n_failed
    lines = [f"{n_predicted} predictions in {journal.file}"]
    if journal.n_failed:
        lines.append(f"{journal.n_failed} inputs failed; their lines contain the reason")
    Console().print(*lines, sep="\n", soft_wrap=True)
    return n_predicted


def predict_each(
    pipe: Pipeline, inputs: Sequence[PredictionInput]
) -> Iterator[tuple[PredictionInput, Image.Image | InputError, dict[str, Any]]]:
    """Each input with its image and prediction; {"error": reason} for an input that cannot be used."""
    done = 0
    while done < len(inputs):
        batch = inputs[done : done + pipe.batch_size]
        done += len(batch)
        images: list[Image.Image | InputError] = []
        for item in batch:
            try:
                images.append(read_image(item.path))
            except InputError as error:
                images.append(error)
        readable = [(item, image) for item, image in zip(batch, images, strict=True) if isinstance(image, Image.Image)]
        found = iter(_predict(pipe, readable))
        for item, image in zip(batch, images, strict=True):
            yield item, image, next(found) if isinstance(image, Image.Image) else {"error": str(image)}


def check_texts(pipe: Pipeline, inputs: Sequence[PredictionInput]) -> None:
    """If all inputs have the same texts, raises InputError before the first image if they are invalid."""
    first = inputs[0].texts
    if all(item.texts == first for item in inputs):
        pipe.build_prompt(*(first.get(name) for name in pipe.processor.text_inputs))


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


def _settings(checkpoint: str | Path, pipe: Pipeline, precision: str) -> dict[str, Any]:
    """What predictions depend on besides the inputs."""
    stats = [(str(file.resolve()), file.stat()) for file in weight_files(checkpoint)]
    return {
        "asked": to_task_settings(pipe.processor, pipe.options).to_json(),
        "weights": [[file, stat.st_size, stat.st_mtime_ns] for file, stat in stats],
        "vocabulary": pipe.processor.tokenizer.digest(),
        "precision": precision,
    }
