"""Inference in three lines: `pipeline("image-captioning", model=FOLDER)(image="photo.jpg")`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ofa.checkpoint import Checkpoint, TaskSettings, check_vocabulary, load_model, read_task, tokenizer_folder
from ofa.checkpoint.task_settings import PLANNED
from ofa.config import did_you_mean
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.inputs import ImageInput, InputError, read_image
from ofa.model import OFAModel
from ofa.padding import pad
from ofa.processors import PROCESSORS, ImageProcessor, Prompt, PromptError
from ofa.processors.settings import from_task_settings
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)

BATCH_SIZE = {"cpu": 8, "cuda": 64}


def pipeline(
    task: str,
    model: str | Path,
    *,
    tokenizer: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    batch_size: int | None = None,
    answers: str | Path | None = None,
    ema: bool = False,
) -> Pipeline:
    """A model with the processor of one task.

    Args:
        task: image-captioning, visual-grounding, visual-entailment, visual-question-answering, or the pipeline name of
            a processor of your own, once its module is imported.
        model: anything `ofa.load` reads. The task settings stored with it (image size, prompts, answers) are used;
            without them, the published ones.
        tokenizer: folder or hub id of the vocabulary; None: the one stored with the model.
        device: such as "cuda:1"; None: a GPU where there is one.
        dtype: of weights and computation: float32, or bfloat16 for half the memory.
        batch_size: images at once; None: 8 on a CPU and 64 on a GPU, there halved where its memory does not suffice.
        answers: JSON file of all possible answers; None: those stored with the model, without which any is possible.
        ema: take the averaged weights of a file of the original trainer.

    Raises:
        UserError: there is no such pipeline or device, or model and vocabulary cannot be loaded or do not match.
    """
    if task in PLANNED:
        raise UserError(f"the pipeline {task} is not there yet; there are {', '.join(PROCESSORS)}")
    if task not in PROCESSORS:
        raise UserError(
            f"there is no pipeline {task!r}; there are {', '.join(PROCESSORS)}{did_you_mean(task, PROCESSORS)}. "
            "One of your own exists once the module of its processor is imported"
        )
    if dtype not in (torch.float32, torch.bfloat16):
        raise UserError(f"dtype={dtype}: pipelines compute in torch.float32 or torch.bfloat16")
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise UserError(f"batch_size={batch_size} is not a whole number of at least 1")
    device = _usable(device)
    checkpoint = Checkpoint.open(model, ema=ema)
    vocabulary = Tokenizer.from_pretrained(tokenizer or tokenizer_folder(checkpoint.path))
    check_vocabulary(checkpoint, vocabulary)
    settings = read_task(checkpoint)
    if settings is not None and settings.pipeline != task:
        log.warning("%s was made for %s; %s uses the published settings", model, settings.pipeline, task)
        settings = None
    settings = settings or TaskSettings(task)
    if answers is not None:
        settings = settings.with_answers(answers)
    if settings.lacks_answers:
        log.warning("%s has no list of answers with it, so any answer is possible; answers=FILE gives one", model)
    processor, options = from_task_settings(settings, vocabulary, model)
    network = load_model(checkpoint)
    if processor.image_size > network.config.max_image_size:
        raise UserError(
            f"{model} is set to images of {processor.image_size} px, but has positions for "
            f"{network.config.max_image_size} px only"
        )
    return Pipeline(network.to(device, dtype), processor, options, batch_size or BATCH_SIZE.get(device.type, 8))


class Pipeline:
    """Images and texts to answers: `pipe(image, text, ...)` takes one of each, or lists, which it processes in batches.

    | pipeline | texts | returns |
    |---|---|---|
    | image-captioning | | {"text": the caption, "score"} |
    | visual-grounding | text | {"boxes": [[x0, y0, x1, y1]] in pixels of the image, "scores"} |
    | visual-entailment | text, caption | {"label": the most likely one, "score", "labels": the score of all three} |
    | visual-question-answering | text, objects (names separated by commas) | {"text", "score", "answers": the best} |

    The model is in evaluation mode; `batch_size` is halved when a GPU's memory does not suffice.
    """

    def __init__(self, model: OFAModel, processor: ImageProcessor, options: GenerationOptions, batch_size: int) -> None:
        self.model, self.processor, self.options, self.batch_size = model, processor, options, batch_size

    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        *texts: str | Sequence[str] | None,
        **named_texts: str | Sequence[str] | None,
    ) -> Any:
        """One answer, or as many as there are images or texts in the longest list.

        Raises:
            TypeError: texts that the processor does not take, or too few.
            InputError: an image that cannot be read, a text without a prompt, or lists of different lengths.
        """
        given = [image, *self._in_order(texts, named_texts)]
        lengths = {len(value) for value in given if isinstance(value, list | tuple)}
        if not lengths:
            return self._answer_all([("", *given)])[0]
        if len(lengths) > 1:
            raise InputError(f"lists of {' and '.join(map(str, sorted(lengths)))} items: give one list, or equal ones")
        (n,) = lengths
        columns = [value if isinstance(value, list | tuple) else [value] * n for value in given]
        places = [f"item {i} of {n}: " if n > 1 else "" for i in range(1, n + 1)]  # as errors call them
        return self._answer_all(list(zip(places, *columns, strict=True)))

    def build_prompt(self, *texts: str | None) -> Prompt:
        """The prompt for the texts of a call, in the processor's order; InputError if they make none."""
        for (name, required), text in zip(self.processor.text_inputs.items(), texts, strict=True):
            if not isinstance(text, str) and (required or text is not None):
                raise InputError(f"{name} has to be a string, not a {type(text).__name__}")
        try:
            return self.processor.build_user_prompt(*texts)
        except PromptError as error:
            raise InputError(str(error)) from error

    def _in_order(self, texts: Sequence[Any], named_texts: Mapping[str, Any]) -> list[Any]:
        kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
        texts_read = self.processor.text_inputs.items()
        parameters = [
            inspect.Parameter(name, kind, default=empty if is_required else None) for name, is_required in texts_read
        ]
        bound = inspect.Signature(parameters).bind(*texts, **named_texts)
        bound.apply_defaults()
        return list(bound.arguments.values())

    def _answer_all(self, items: list[tuple]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        while len(answers) < len(items):
            batch = items[len(answers) : len(answers) + self.batch_size]
            try:
                answers += self._answer_batch(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                torch.cuda.empty_cache()
                self.batch_size = len(batch) // 2
                log.info("out of memory with %d images at once; continuing with %d", len(batch), self.batch_size)
        return answers

    @torch.no_grad()
    def _answer_batch(self, items: list[tuple]) -> list[dict[str, Any]]:
        images, prompts = zip(*(self._read_item(*item) for item in items), strict=True)
        weight = self.model.decoder.output_projection.weight
        inputs = {
            "input_ids": pad([prompt.source for prompt in prompts]).to(weight.device),
            "patch_images": torch.stack([self.processor.pixels(image) for image in images]).to(weight),
        }
        prefixes = [prompt.prefix for prompt in prompts]
        prefix_tokens = pad(prefixes).to(weight.device) if any(prefixes) else None
        found = self.processor.generate(self.model, inputs, prefix_tokens, self.options)
        return [self.processor.respond(best, *image.size) for best, image in zip(found, images, strict=True)]

    def _read_item(self, place: str, image: ImageInput, *texts: Any) -> tuple[Image.Image, Prompt]:
        try:
            return read_image(image), self.build_prompt(*texts)
        except InputError as error:
            raise InputError(f"{place}{error}") from error


def _usable(device: str | torch.device | None) -> torch.device:
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:  # PyTorch without CUDA raises an AssertionError
        reason = str(error).splitlines()[0]
        raise UserError(f"device={device} cannot be used ({reason}); give cpu, cuda or a GPU such as cuda:1") from error
    return found
