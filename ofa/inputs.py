"""User input as RGB images: a path, a URL, a PIL image or an array."""

from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from PIL import Image

from ofa.errors import UserError
from ofa.images import MAX_PIXELS, ImageError, open_image, to_rgb

ImageInput = str | Path | Image.Image | np.ndarray

MAX_DOWNLOAD = 100_000_000  # bytes; no photograph of MAX_PIXELS needs more
TIMEOUT = 30  # seconds without data


class InputError(UserError):
    """An image or a text that cannot be read."""


def read_image(given: ImageInput) -> Image.Image:
    """The RGB image of a path, an http(s) URL, a PIL image, or an array; InputError if it is unusable.

    An array is [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]: bytes, or fractions from 0 to 1.
    """
    if isinstance(given, Image.Image):
        return _checked(given, "the image")
    if isinstance(given, np.ndarray):
        return _checked(Image.fromarray(_bytes(given)), "the array")
    if not isinstance(given, str | Path):
        raise InputError(
            f"an image is given as a path, URL, PIL image or NumPy array, or a list of these, not as a "
            f"{type(given).__name__}"
        )
    is_url = str(given).lower().startswith(("http://", "https://"))
    try:
        return open_image(_download(str(given)) if is_url else _read(Path(given)))
    except ImageError as error:
        raise InputError(f"the image {given} cannot be used: {error}") from error


def _checked(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{name} is {image.width} x {image.height} px, more than the {MAX_PIXELS} px allowed")
    try:
        return to_rgb(image)
    except ImageError as error:
        raise InputError(f"{name} cannot be used: {error}") from error
    except (OSError, ValueError) as error:  # a file opened by the caller is only decoded now, and may be closed
        raise InputError(f"{name} does not decode ({error})") from error


def _bytes(array: np.ndarray) -> np.ndarray:
    """The array as bytes [h, w] or [h, w, channels]."""
    grey = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if grey.ndim not in (2, 3) or (grey.ndim == 3 and grey.shape[-1] not in (3, 4)) or not grey.size:
        raise InputError(f"an array of shape {list(array.shape)} is not an image: give [h, w] or [h, w, 3]")
    if grey.dtype == np.uint8:
        return grey
    if np.issubdtype(grey.dtype, np.floating) and np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1:
        return (grey * 255).round().astype(np.uint8)
    raise InputError(f"an array of {grey.dtype} is not an image: give bytes (uint8), or fractions from 0 to 1")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the image {path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # of a zero byte
        raise InputError(f"the image {str(path)!r} cannot be read ({error})") from error


def _download(url: str) -> bytes:
    try:
        with urlopen(url, timeout=TIMEOUT) as answer:
            encoded = answer.read(MAX_DOWNLOAD + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(f"the image {url} cannot be downloaded ({getattr(error, 'reason', error)})") from error
    if len(encoded) > MAX_DOWNLOAD:
        raise InputError(f"the image {url} has more than the {MAX_DOWNLOAD} bytes allowed")
    return encoded
