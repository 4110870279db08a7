"""What the tasks about an image share: its size and normalisation, the prompt's length, drawn answers."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from data.images import ImageTransform, decode_image
from data.tsv import Row
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BOS, EOS
from tasks.base import Prediction, Task, Truth


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task[Truth, Prediction]):
    """A task with an image that is resized to a square, its aspect not kept.

    Args:
        tokenizer: turns prompts and answers into ids.
        image_size: side of the resized picture in pixels.
        max_source_tokens: ids of a source; the default is what the position table has room for.
        mean, std: of each colour channel, for normalisation.

    Raises:
        UserError: a size no model can read.
    """

    tokenizer: Tokenizer
    image_size: int = 480
    max_source_tokens: int = 1024
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.image_size < 16:
            raise UserError(f"task.image_size={self.image_size} is less than one patch of 16 pixels")
        if not 3 <= self.max_source_tokens <= 1024:
            raise UserError(f"task.max_source_tokens={self.max_source_tokens} is not between 3 and the model's 1024")

    def open_image(self, row: Row) -> tuple[Image.Image, Tensor]:
        """The row's picture, and its pixels [3, image_size, image_size] for the model.

        Raises:
            RowError: it does not decode.
        """
        image = decode_image(row.values["image"], row)
        return image, ImageTransform(self.image_size, self.mean, self.std)(image)

    def encode_prompt(self, prompt: str) -> tuple[list[int], tuple[str, ...]]:
        """`<s>` + prompt + `</s>`, at most `max_source_tokens` ids in all, and a note where that cut the prompt."""
        tokens = self.tokenizer.encode(prompt)
        room = self.max_source_tokens - 2
        notes = (f"prompt cut to {self.max_source_tokens} tokens",) if len(tokens) > room else ()
        return [BOS, *tokens[:room], EOS], notes
