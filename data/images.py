"""The image column of a row: base64 of an encoded file."""

from __future__ import annotations

import base64

from PIL import Image

from data.source import Row
from ofa.images import ImageError, open_image

URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def decode_image(text: str | bytes, where: Row) -> Image.Image:
    """The RGB picture in `text`, base64 of an encoded file in the standard or the URL-safe alphabet, padded or not.

    Args:
        text: the image column, or the encoded file itself.
        where: the row it stands in, named in errors.

    Raises:
        RowError: for base64 or a picture that does not decode in full, and for one of too many pixels.
    """
    encoded = text if isinstance(text, bytes) else _decode_base64(text, where)
    try:
        return open_image(encoded)
    except ImageError as error:
        raise where.error(f"the image cannot be used: {error}") from error


def _decode_base64(text: str, where: Row) -> bytes:
    if not text.strip():
        raise where.error("the image column is empty")
    try:
        symbols = text.strip().rstrip("=").encode("ascii").translate(URL_SAFE_TO_STANDARD)
        return base64.b64decode(symbols + b"=" * (-len(symbols) % 4), validate=True)
    except ValueError as error:  # binascii.Error and UnicodeEncodeError are ValueErrors
        raise where.error(f"the image column is not base64 ({error})") from error
