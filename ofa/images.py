"""Pictures: from an encoded file to the normalised tensor a model takes."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ofa.errors import UserError

# 8000 x 8000: above any photograph in the published data, and 192 MB when decoded. Below Pillow's own limits, which
# warn first and refuse only at twice the size.
MAX_PIXELS = 64_000_000

# What photographs come in. Pillow knows more, some of which start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class ImageError(UserError):
    """A picture that cannot be used."""


def open_image(encoded: bytes) -> Image.Image:
    """The RGB picture of an encoded file.

    Pixels are those of the published system: transparency is dropped, not blended, and the EXIF orientation is not
    applied, since boxes and published results refer to pixels as they are stored.

    Raises:
        ImageError: it does not decode in full, or has more than MAX_PIXELS.
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)  # reads the header only
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"it is {image.width} x {image.height} px, more than the {MAX_PIXELS} px allowed")
        return to_rgb(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"it is no picture of a known kind ({', '.join(FORMATS)})") from error
    except Exception as error:  # on damaged bytes decoders raise anything from OSError to struct.error
        raise ImageError(f"it does not decode ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture's red, green and blue, 8 bits each.

    Raises:
        ImageError: its values are no bytes and no 16-bit numbers.
    """
    if image.mode.startswith("I"):  # grey, which Pillow's own conversion would clip to white at 255
        image = Image.fromarray(_bytes_of(np.asarray(image), sixteen_bits=image.mode != "I" or image.format == "PNG"))
    if image.mode == "F":
        raise ImageError("its values are of 32 bits with fractions; give bytes")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours as directly, without Pillow's warning
    return image.convert("RGB")


def _bytes_of(grey: np.ndarray, sixteen_bits: bool) -> np.ndarray:
    """Whole numbers as bytes.

    Args:
        sixteen_bits: that they are meant so, even if all are dark; else they are where one is more than a byte.
    """
    least, most = int(grey.min()), int(grey.max())
    if least < 0 or most > 65535:
        raise ImageError(f"its values go from {least} to {most}; give bytes, or 16 bits from 0 to 65535")
    return (grey.astype(np.uint16) >> (8 if sixteen_bits or most > 255 else 0)).astype(np.uint8)


@dataclass(frozen=True)
class ImageTransform:
    """PIL picture -> float32 tensor [3, size, size]: resized by Pillow's bicubic filter, aspect not kept, normalised.

    Args:
        size: pixels a side.
        mean, std: of each channel, on the scale where 255 is 1.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __call__(self, image: Image.Image) -> Tensor:
        resized = np.array(image.resize((self.size, self.size), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(resized).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
        mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)


def resize_ratios(size: int, width: int, height: int) -> tuple[float, float]:
    """What x and y of a box in a picture of width x height are multiplied by when it becomes size x size."""
    return size / width, size / height
