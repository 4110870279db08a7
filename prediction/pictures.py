"""Answers drawn on their pictures."""

from __future__ import annotations

import logging
import textwrap
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from prediction.questions import PictureQuestion

log = logging.getLogger(__name__)

_SIDE = 1024  # pixels of the longer side, at most
_FONT_SIZE = 18
_LETTERS = 60  # of a picture's name that its answer's picture keeps


def save_picture(
    folder: Path, number: int, question: PictureQuestion, image: Image.Image, answer: dict[str, Any]
) -> None:
    """The picture with the question and its answer below, and the boxes of the answer in red, as a JPEG.

    One that cannot be written is named in the log: answers do not depend on it.
    """
    file = folder / f"{number:06}_{question.path.stem[:_LETTERS]}.jpg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw(question, image, answer).save(file, quality=90)
    except OSError as error:
        log.warning("%s cannot be written (%s)", file, error)


def draw(question: PictureQuestion, image: Image.Image, answer: dict[str, Any]) -> Image.Image:
    """The picture of a question with its answer."""
    scale = min(1.0, _SIDE / max(image.size))
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in answer.get("boxes", ()):
        (left, right), (top, bottom) = sorted((x0 * scale, x1 * scale)), sorted((y0 * scale, y1 * scale))
        pen.rectangle((left, top, right, bottom), outline="red", width=3)
    return _with_lines(image, [*question.texts.values(), _in_words(answer)])


def _in_words(answer: dict[str, Any]) -> str:
    if "boxes" in answer:
        return f"score {answer['scores'][0]:.2f}"
    return f"{answer.get('label', answer.get('text'))} ({answer['score']:.2f})"


def _with_lines(image: Image.Image, texts: list[str]) -> Image.Image:
    """The image on white, with texts below it."""
    width = max(image.width, 240)
    letters = max(1, int(width / (0.6 * _FONT_SIZE)))
    text = "\n".join(line for text in texts for line in textwrap.wrap(text, letters))
    height = (text.count("\n") + 1) * int(1.4 * _FONT_SIZE) + 8
    sheet = Image.new("RGB", (width, image.height + height), "white")
    sheet.paste(image)
    font = ImageFont.load_default(_FONT_SIZE)
    ImageDraw.Draw(sheet).text((4, image.height + 4), text, fill="black", font=font)
    return sheet
