"""The six-line interface: `pipeline("image-captioning", model=FOLDER)(image="photo.jpg")`."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from PIL import Image

from ofa.checkpoint import Checkpoint, TaskSettings, check_vocabulary, load_model, read_task, tokenizer_folder
from ofa.checkpoint.task_settings import PIPELINE_NAMES
from ofa.config import did_you_mean
from ofa.errors import UserError
from ofa.generation import GenerationOptions, Hypothesis
from ofa.inputs import ImageInput, InputError, read_image
from ofa.model import OFAModel
from ofa.padding import pad
from ofa.processors import (
    CaptionProcessor,
    EntailmentProcessor,
    GroundingProcessor,
    ImageProcessor,
    Prompt,
    PromptError,
    QuestionProcessor,
)
from ofa.processors.entailment import LABELS
from ofa.processors.settings import from_task_settings
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)

BATCH_SIZE = {"cpu": 8, "cuda": 64}  # images at once, halved where the memory does not suffice

P = TypeVar("P", bound=ImageProcessor)


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
    """A model with the way one task asks it.

    Args:
        task: image-captioning, visual-grounding, visual-entailment or visual-question-answering.
        model: anything `ofa.load` reads: a run's folder, a model folder, a published file, a Hugging Face hub id. What
            it says about its task (image size, prompts, answers) is followed; else the published settings are.
        tokenizer: folder or hub id of the vocabulary; None: the one beside the model.
        device: such as "cuda:1"; None: a GPU where there is one.
        dtype: of weights and computation: float32, or bfloat16 for half the memory.
        batch_size: images at once; None: 8 on a CPU and 64 on a GPU, there halved where its memory does not suffice.
        answers: JSON file of all answers that may be given to questions; None: those kept with the model, where it
            keeps none, any.
        ema: take the averaged weights of a file of the original trainer.

    Example:
        >>> ground = pipeline("visual-grounding", model="outputs/refcoco/tiny/...")  # doctest: +SKIP
        >>> ground(image="photo.jpg", text="the blue mug")  # doctest: +SKIP
        {'boxes': [[112.3, 40.1, 187.9, 131.0]], 'scores': [0.87]}

    Raises:
        UserError: there is no such pipeline or device; or the model or its vocabulary cannot be loaded, or they do not
            belong together.
    """
    if task not in PIPELINES:
        if task in PIPELINE_NAMES:
            raise UserError(f"the pipeline {task} is not there yet; there are {', '.join(PIPELINES)}")
        raise UserError(
            f"there is no pipeline {task!r}; there are {', '.join(PIPELINES)}{did_you_mean(task, PIPELINES)}"
        )
    if dtype not in (torch.float32, torch.bfloat16):
        raise UserError(f"dtype={dtype}: pipelines compute in torch.float32 or torch.bfloat16")
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise UserError(f"batch_size={batch_size} is not a whole number of at least 1")
    place = _place(device)
    checkpoint = Checkpoint.open(model, ema=ema)
    words = Tokenizer.from_pretrained(tokenizer or tokenizer_folder(checkpoint.path))
    check_vocabulary(checkpoint, words)
    settings = read_task(checkpoint)
    if settings is not None and settings.pipeline != task:
        log.warning("%s was made for %s; %s asks it with the published settings", model, settings.pipeline, task)
        settings = None
    settings = settings or TaskSettings(task)
    if answers is not None:
        settings = settings.with_answers(answers)
    if settings.lacks_answers:
        log.warning("%s has no list of answers with it and is asked openly; answers=FILE gives one", model)
    processor, options = from_task_settings(settings, words, model)
    network = load_model(checkpoint)
    if processor.image_size > network.config.max_image_size:
        raise UserError(
            f"{model} is to read images of {processor.image_size} px, but has positions for "
            f"{network.config.max_image_size} px alone"
        )
    return PIPELINES[task](network.to(place, dtype), processor, options, batch_size or BATCH_SIZE.get(place.type, 8))


class Pipeline(ABC, Generic[P]):
    """Images and texts to answers: one of each, or lists of them, which are answered in batches.

    Args:
        model: in evaluation mode, on its device and in its precision.
        processor: asks it.
        options: of generation.
        batch_size: images at once, halved when a GPU's memory does not suffice.

    Raises:
        InputError: on a call, for an image that cannot be read, a text that cannot be asked, or lists of other lengths.
    """

    def __init__(self, model: OFAModel, processor: P, options: GenerationOptions, batch_size: int) -> None:
        self.model, self.processor, self.options, self.batch_size = model, processor, options, batch_size

    @abstractmethod
    def ask(self, *texts: Any) -> Prompt:
        """The question that the texts of a call make.

        Raises:
            InputError, QuestionError: they make none for this model.
        """

    @abstractmethod
    def read(self, hypotheses: Sequence[Hypothesis], image: Image.Image) -> dict[str, Any]:
        """The answer to a question about an image, as a caller gets it, of the best hypotheses, best first."""

    def _answer(self, images: ImageInput | Sequence[ImageInput], *texts: Any) -> Any:
        """One answer, or as many as there are images or texts in the longest list."""
        given = [images, *texts]
        lengths = {len(value) for value in given if isinstance(value, list | tuple)}
        if not lengths:
            return self._answer_all([("", *given)])[0]
        if len(lengths) > 1:
            raise InputError(f"lists of {' and '.join(map(str, sorted(lengths)))} items: give one list, or equal ones")
        (n,) = lengths
        columns = [value if isinstance(value, list | tuple) else [value] * n for value in given]
        places = [f"item {i + 1} of {n}: " if n > 1 else "" for i in range(n)]  # as errors call them
        return self._answer_all(list(zip(places, *columns, strict=True)))

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
                log.info("out of memory with %d images at once; going on with %d", len(batch), self.batch_size)
        return answers

    @torch.no_grad()
    def _answer_batch(self, items: list[tuple]) -> list[dict[str, Any]]:
        images, questions = zip(*(self._read_item(*item) for item in items), strict=True)
        weight = self.model.decoder.output_projection.weight
        inputs = {
            "input_ids": pad([question.source for question in questions]).to(weight.device),
            "patch_images": torch.stack([self.processor.pixels(image) for image in images]).to(weight),
        }
        prefixes = [question.prefix for question in questions]
        prefix_tokens = pad(prefixes).to(weight.device) if any(prefixes) else None
        found = self.processor.search(self.model, inputs, prefix_tokens, self.options)
        return [self.read(hypotheses, image) for hypotheses, image in zip(found, images, strict=True)]

    def _read_item(self, place: str, image: ImageInput, *texts: Any) -> tuple[Image.Image, Prompt]:
        try:
            return read_image(image), self.ask(*texts)
        except (InputError, PromptError) as error:
            raise InputError(f"{place}{error}") from error


class ImageCaptioning(Pipeline[CaptionProcessor]):
    """`pipe(image)` -> {"text": the caption, "score"}."""

    def __call__(self, image: ImageInput | Sequence[ImageInput]) -> Any:
        return self._answer(image)

    def ask(self) -> Prompt:
        return self.processor.ask()

    def read(self, hypotheses: Sequence[Hypothesis], image: Image.Image) -> dict[str, Any]:
        best = hypotheses[0]
        return {"text": self.processor.caption(best), "score": math.exp(best.score)}


class VisualGrounding(Pipeline[GroundingProcessor]):
    """`pipe(image, text)` -> {"boxes": [[x0, y0, x1, y1]] in pixels of the image, "scores"}."""

    def __call__(self, image: ImageInput | Sequence[ImageInput], text: str | Sequence[str]) -> Any:
        return self._answer(image, text)

    def ask(self, text: str) -> Prompt:
        question = self.processor.ask(_as_text(text))
        if not question.texts[0]:
            raise InputError("the text is empty: name the object to be found")
        return question

    def read(self, hypotheses: Sequence[Hypothesis], image: Image.Image) -> dict[str, Any]:
        best = hypotheses[0]
        return {"boxes": [list(self.processor.box(best, *image.size))], "scores": [math.exp(best.score)]}


class VisualEntailment(Pipeline[EntailmentProcessor]):
    """`pipe(image, text, caption)` -> {"label": entailment, neutral or contradiction, "score", "labels": all three}."""

    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        text: str | Sequence[str],
        caption: str | Sequence[str] | None = None,
    ) -> Any:
        return self._answer(image, text, caption)

    def ask(self, text: str, caption: str | None) -> Prompt:
        if caption is None and self.processor.use_caption:
            raise InputError("this model is asked about an image with its caption: give caption=...")
        if caption is not None and not self.processor.use_caption:
            raise InputError("this model is asked about an image without its caption: leave caption out")
        return self.processor.ask(_as_text(text), None if caption is None else _as_text(caption))

    def read(self, hypotheses: Sequence[Hypothesis], image: Image.Image) -> dict[str, Any]:
        labels = {LABELS[self.processor.answer(h)]: math.exp(h.score) for h in hypotheses}
        best = next(iter(labels))
        return {"label": best, "score": labels[best], "labels": labels}


class VisualQuestionAnswering(Pipeline[QuestionProcessor]):
    """`pipe(image, text, objects)` -> {"text": the answer, "score", "answers": the best five and their scores}.

    Objects are the names of what is seen in the image, separated by commas, where a detector has found any.
    """

    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        text: str | Sequence[str],
        objects: str | Sequence[str] | None = None,
    ) -> Any:
        return self._answer(image, text, objects)

    def ask(self, text: str, objects: str | None) -> Prompt:
        if objects and not self.processor.use_objects:
            raise InputError("this model is asked without the names of objects: leave objects out")
        names = () if objects is None else [name.strip() for name in _as_text(objects).split(",")]
        return self.processor.ask(_as_text(text), [name for name in names if name])

    def read(self, hypotheses: Sequence[Hypothesis], image: Image.Image) -> dict[str, Any]:
        answers = {self.processor.answer(h): math.exp(h.score) for h in reversed(hypotheses)}  # of equals the best
        best = self.processor.answer(hypotheses[0])
        return {"text": best, "score": answers[best], "answers": dict(reversed(answers.items()))}


PIPELINES: dict[str, type[Pipeline]] = {
    CaptionProcessor.pipeline: ImageCaptioning,
    GroundingProcessor.pipeline: VisualGrounding,
    EntailmentProcessor.pipeline: VisualEntailment,
    QuestionProcessor.pipeline: VisualQuestionAnswering,
}


def _place(device: str | torch.device | None) -> torch.device:
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:  # PyTorch without CUDA asserts that it has it
        reason = str(error).splitlines()[0]
        raise UserError(f"device={device} cannot be used ({reason}); give cpu, cuda or a GPU such as cuda:1") from error
    return place


def _as_text(given: Any) -> str:
    if not isinstance(given, str):
        raise InputError(f"a text is given as a string, not as a {type(given).__name__}")
    return given
