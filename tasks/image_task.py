"""What the tasks about an image share: the image column."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from data.images import decode_image
from data.tsv import Row
from ofa.processors.base import ImageProcessor
from tasks.base import Prediction, Task, Truth


@dataclass(frozen=True, kw_only=True)
class ImageTask(ImageProcessor, Task[Truth, Prediction]):
    """A task with an image in each row."""

    def open_image(self, row: Row) -> tuple[Image.Image, Tensor]:
        """The row's picture, and its pixels [3, image_size, image_size] for the model.

        Raises:
            RowError: it does not decode.
        """
        image = decode_image(row.values["image"], row)
        return image, self.pixels(image)
