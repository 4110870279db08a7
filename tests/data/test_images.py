import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.datasets import png, png_chunk
from PIL import Image

from data.cells import decode_image
from data.source import Row, RowError
from ofa.images import MAX_PIXELS, ImageTransform, resize_ratios

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "fairseq_data.json").read_text())
WHERE = Row({}, "train.tsv", 17)


@pytest.fixture(scope="module")
def picture():
    """60 x 40 px with smooth changes, so that JPEG keeps it."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((60, 40), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    image = decode_image(base64.b64encode(content).decode(), WHERE)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_both_alphabets_decode_with_and_without_padding(picture, encode, padded):
    for extra in range(3):  # one of the lengths needs no padding, one "=", one "=="
        text = encode(encoded(picture) + bytes(extra)).decode()
        image = decode_image(text if padded else text.rstrip("="), WHERE)
        assert np.array_equal(np.asarray(image), np.asarray(picture))
    assert ("-" in text or "_" in text) == (encode is base64.urlsafe_b64encode)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("no!base64", "is not base64"), ("abcde", "is not base64"), ("é", "is not base64")],
)
def test_what_is_not_base64_is_refused_with_file_and_line(text, message):
    with pytest.raises(RowError, match=f"line 17 of train.tsv: the image column {message}"):
        decode_image(text, WHERE)


def test_what_is_not_an_image_is_refused():
    with pytest.raises(RowError, match="line 17 of train.tsv: .* not an image of a known format"):
        decoded(b"once upon a time")


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_truncated_image_is_refused_wherever_it_ends(picture, format):
    content = encoded(picture, format)
    for share in range(1, 20):
        with pytest.raises(RowError, match="line 17 of train.tsv"):
            decoded(content[: len(content) * share // 20])


def test_a_jpeg_without_its_last_byte_is_refused(picture):
    with pytest.raises(RowError, match="does not decode .*truncated"):
        decoded(encoded(picture, "JPEG")[:-1])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8001, 10_000, 60_000])
def test_a_huge_declared_size_is_refused_before_decoding(side):
    assert side * side > MAX_PIXELS
    with pytest.raises(RowError, match="line 17 of train.tsv: .*(px allowed|exceeds limit)"):
        decoded(png(side, side, png_chunk(b"IDAT", zlib.compress(b""))))


@pytest.mark.filterwarnings("error")
def test_every_mode_becomes_rgb(picture):
    colours = np.asarray(picture).astype(int)
    grey = np.repeat(np.asarray(picture.convert("L"))[..., None], 3, axis=2)
    alpha = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60), dtype=np.uint8))
    with_alpha = picture.copy()
    with_alpha.putalpha(alpha)
    palette = picture.quantize(64)

    assert np.array_equal(decoded(encoded(with_alpha)), colours)
    assert np.array_equal(decoded(encoded(picture.convert("L"))), grey)
    assert np.array_equal(decoded(encoded(with_alpha.convert("LA"))), grey)
    assert np.array_equal(decoded(encoded(palette)), np.asarray(palette.convert("RGB")))
    assert np.array_equal(decoded(encoded(palette, transparency=bytes(64))), np.asarray(palette.convert("RGB")))
    assert np.abs(decoded(encoded(picture.convert("CMYK"), "JPEG", quality=100)) - colours).mean() < 2
    sixteen_bit = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256 + 255)
    assert np.array_equal(decoded(encoded(sixteen_bit)), grey)


def test_exif_orientation_is_not_applied(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert decoded(encoded(picture, "JPEG", exif=exif)).shape == (40, 60, 3)


@pytest.mark.parametrize("size", [32, 96])
def test_the_transform_is_pillows_bicubic_and_normalised(picture, size):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    tensor = ImageTransform(size, mean, std)(picture)
    assert tensor.shape == (3, size, size) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    pixels = tensor.permute(1, 2, 0).double().numpy() * std + mean
    expected = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


@pytest.mark.parametrize(("case", "size", "max_size"), [("p64_max512", 64, 512), ("p64_max64", 64, 64)])
def test_boxes_times_the_ratios_are_those_of_the_published_transform(case, size, max_size):
    for image, expected in zip(GOLDENS["images"], GOLDENS["refcoco_transform"][case], strict=True):
        height, width = image["size_hw"]
        ratios = resize_ratios(size, width, height)
        boxes = np.array(image["box"]) * (ratios * 2) / max_size
        np.testing.assert_allclose(boxes, expected["boxes"][0], atol=1e-6)
        assert np.round(boxes * 999).tolist() == expected["bins"][0]


def test_ratios_are_those_of_the_published_refcoco_samples():
    for image, expected in zip(GOLDENS["images"], GOLDENS["refcoco_dataset"]["examples"], strict=False):
        height, width = image["size_hw"]
        ratios = resize_ratios(64, width, height)
        assert ratios == pytest.approx((expected["w_resize_ratio"], expected["h_resize_ratio"]), abs=1e-6)
