"""Pictures of answers, for people to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

TILE = 256  # pixels, side of the image in a drawn answer
_LINE = 15  # pixels, height of a line of text
_LETTERS = 40  # that fit in a line


def draw_tile(
    image: Tensor | None, mean: Sequence[float], std: Sequence[float], texts: Sequence[str], lines: Sequence[int]
) -> tuple[Image.Image, int]:
    """An image with texts above it, and the height in pixels at which the image begins.

    Args:
        image: [3, h, w], normalised by mean and std of each channel; None leaves the place white.
        texts: each from a line of its own on, cut where its lines are full.
        lines: how many lines each text may fill. The picture's size follows from these alone.
    """
    top = 4 + _LINE * sum(lines)
    tile = Image.new("RGB", (TILE, top + TILE), "white")
    if image is not None:
        colours = image.permute(1, 2, 0).float().cpu() * torch.tensor(std) + torch.tensor(mean)
        pixels = (colours.clamp(0, 1) * 255).round().byte().numpy()
        tile.paste(Image.fromarray(pixels).resize((TILE, TILE)), (0, top))
    pen, y = ImageDraw.Draw(tile), 2
    for text, room in zip(texts, lines, strict=True):
        pen.text((4, y), textwrap.fill(text, width=_LETTERS, max_lines=room), fill="black")
        y += _LINE * room
    return tile, top
