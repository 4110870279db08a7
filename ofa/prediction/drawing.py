"""Images annotated with predictions."""

import logging
import textwrap
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ofa.prediction.inputs import PredictionInput

log = logging.getLogger(__name__)

_SIDE = 1024  # pixels of the longer side, at most
_FONT_SIZE = 18


def save_image(
    folder: Path, number: int, item: PredictionInput, image: Image.Image, prediction: dict[str, Any]
) -> None:
    """Save the annotated image as a JPEG file; a failure is logged, since predictions do not depend on it."""
    file = folder / f"{number:06}_{item.path.stem[:60]}.jpg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw(item, image, prediction).save(file, quality=90)
    except OSError as error:
        log.warning("%s cannot be written (%s)", file, error)


def draw(item: PredictionInput, image: Image.Image, prediction: dict[str, Any]) -> Image.Image:
    """The image with predicted boxes in red, and texts and prediction below."""
    scale = min(1.0, _SIDE / max(image.size))
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in prediction.get("boxes", ()):
        (left, right), (top, bottom) = sorted((x0 * scale, x1 * scale)), sorted((y0 * scale, y1 * scale))
        pen.rectangle((left, top, right, bottom), outline="red", width=3)
    if "boxes" in prediction:
        answer = f"score {prediction['scores'][0]:.2f}"
    else:
        answer = f"{prediction.get('label', prediction.get('text'))} ({prediction['score']:.2f})"
    width = max(image.width, 240)
    letters = max(1, int(width / (0.6 * _FONT_SIZE)))
    text = "\n".join(line for text in (*item.texts.values(), answer) for line in textwrap.wrap(text, letters))
    height = (text.count("\n") + 1) * int(1.4 * _FONT_SIZE) + 8
    sheet = Image.new("RGB", (width, image.height + height), "white")
    sheet.paste(image)
    font = ImageFont.load_default(_FONT_SIZE)
    ImageDraw.Draw(sheet).text((4, image.height + 4), text, fill="black", font=font)
    return sheet
