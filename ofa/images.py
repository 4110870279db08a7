"""Images and boxes: from an encoded file to the model's input, from pixels to bins and back.

A box is x0, y0, x1, y1 in pixels of the original image, the right and lower edges exclusive, so that its area is
(x1 - x0) * (y1 - y0). A model writes it as four bins of the resized image: coordinate * resize ratio / max_image_size
* 999, rounded. `resize_ratio` is always (resized width / width, resized height / height).
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ofa.errors import UserError
from ofa.vocabulary import N_BINS

Box = tuple[float, float, float, float]

# 8000 x 8000: above any photograph in the published data, and 192 MB when decoded. Below Pillow's own limits, which
# warn first and refuse only at twice the size.
MAX_PIXELS = 64_000_000

# Pillow knows more formats, some of which start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class ImageError(UserError):
    """An image that cannot be used."""


def open_image(encoded: bytes) -> Image.Image:
    """The RGB image of an encoded file, with the pixels of the published system.

    Transparency is dropped, not blended, and the EXIF orientation is not applied.

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
        raise ImageError(f"it is not an image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # on damaged bytes decoders raise anything from OSError to struct.error
        raise ImageError(f"it does not decode ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The image's red, green and blue, 8 bits each; ImageError if its values are neither bytes nor 16-bit numbers."""
    if image.mode.startswith("I"):  # grey, which Pillow's own conversion would clip to white at 255
        grey = np.asarray(image)
        least, most = int(grey.min()), int(grey.max())
        if least < 0 or most > 65535:
            raise ImageError(f"its values range from {least} to {most}; give bytes, or 16 bits from 0 to 65535")
        # Numbers of 32 bits may hold either: they are of 16 bits where one exceeds a byte.
        is_16_bits = image.mode != "I" or image.format == "PNG" or most > 255
        image = Image.fromarray((grey.astype(np.uint16) >> (8 if is_16_bits else 0)).astype(np.uint8))
    if image.mode == "F":
        raise ImageError("its values are of 32 bits with fractions; give bytes")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours as directly, without Pillow's warning
    return image.convert("RGB")


@dataclass(frozen=True)
class ImageTransform:
    """PIL image -> float32 tensor [3, size, size]: resized by Pillow's bicubic filter, aspect not kept, normalised.

    `mean` and `std` are of each channel, on the scale where 255 is 1.
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
    """The factors of x and y when an image of width x height becomes size x size."""
    return size / width, size / height


def boxes_to_bins(boxes: Tensor, resize_ratio: tuple[float, float], max_image_size: int) -> Tensor:
    """Bin numbers [..., 4] (int64) of boxes [..., 4] inside the image; 0..999 where the image fits max_image_size."""
    return (boxes * torch.tensor(2 * resize_ratio) / max_image_size * (N_BINS - 1)).round().long()


def bins_to_boxes(bins: Tensor, resize_ratio: tuple[float, float], max_image_size: int) -> Tensor:
    """Boxes [..., 4] (float32) in pixels of the original image from bin numbers [..., 4]."""
    return bins / (N_BINS - 1) * max_image_size / torch.tensor(2 * resize_ratio)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union [N] of boxes [N, 4] and [N, 4], row by row; 0 where neither has an area."""
    overlap = _area(torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:]))
    union = _area(first[:, :2], first[:, 2:]) + _area(second[:, :2], second[:, 2:]) - overlap
    return torch.where(union > 0, overlap / union, 0.0)


def _area(upper_left: Tensor, lower_right: Tensor) -> Tensor:
    # A predicted box may have its corners swapped: it has no area rather than a negative one.
    return (lower_right - upper_left).clamp(min=0).prod(dim=-1)


def has_area(box: Box) -> bool:
    """Whether it covers anything: neither empty nor with its corners swapped."""
    x0, y0, x1, y1 = box
    return x0 < x1 and y0 < y1
