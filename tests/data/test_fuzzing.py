"""Whatever a damaged file holds, the loader answers with a sample or with its own error, and soon.

`pytest -m slow` tries ten thousand rows.
"""

import base64
import io
import struct
import time
import zlib
from functools import cache

import numpy as np
import pytest
from helpers.datasets import png
from helpers.datasets import png_chunk as chunk
from PIL import Image

from data.batch import Sample
from data.dataset import TaskDataset
from data.source import RowError
from data.tsv import TSVFile
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer
from tasks.refcoco import RefCOCO
from tracking.tracking import peak_resident_bytes

SECONDS = 5  # for one row
GIB = 1 << 30


def picture(rng, format, **options):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(file, format, **options)
    return file.getvalue()


def cells(image, box="2,3,20,15", text="the red circle"):
    return [b"id", b"17", text.encode(), box.encode(), base64.b64encode(image)]


@cache
def bomb(length):
    return zlib.compress(bytes(length), 9)


def tiff(width, height, strip=b"\0" * 64):
    """One uncompressed strip of 8-bit grey that claims to be the whole image."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, height), (279, 4, width * height % 2**32)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def gif(width, height):
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + b";"


def bmp(width, height):
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def huge(rng):
    """A few bytes that declare an image of gigabytes."""
    width, height = (int(2 ** rng.uniform(13, 31)) for _ in range(2))
    side = min(width, 65535), min(height, 65535)
    return [png(width, height, chunk(b"IDAT", bomb(1000))), tiff(width, height), gif(*side), bmp(width, height)][
        rng.integers(4)
    ]


def zip_bomb(rng):
    """PNGs whose text, colour profile or pixels inflate to hundreds of megabytes."""
    content = bomb(200_000_000) if rng.random() < 0.05 else bomb(20_000_000)
    chunks = [
        chunk(b"zTXt", b"a\0\0" + content),
        chunk(b"iTXt", b"a\0\1\0\0\0" + content),
        chunk(b"iCCP", b"a\0\0" + content),
        chunk(b"IDAT", content),
    ]
    return png(24, 32, *[chunks[i] for i in rng.permutation(4)])


def animation(rng):
    frames = [Image.new("L", (8, 8), int(grey)) for grey in rng.integers(0, 255, 30)]
    file = io.BytesIO()
    frames[0].save(file, ("GIF", "PNG", "WEBP", "TIFF")[rng.integers(4)], save_all=True, append_images=frames[1:])
    return file.getvalue()


def flipped(rng, content, most=8):
    damaged = bytearray(content)
    for place in rng.integers(0, len(damaged), rng.integers(1, most + 1)):
        damaged[place] ^= 1 << rng.integers(8)
    return bytes(damaged)


def any_picture(rng):
    format = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")[rng.integers(6)]
    return picture(rng, format, **({"compression": "tiff_lzw"} if format == "TIFF" and rng.random() < 0.5 else {}))


def line_of(kind, rng):
    row = cells(any_picture(rng))
    if kind == "line flipped":
        return flipped(rng, b"\t".join(row))
    if kind == "columns cut":
        return b"\t".join(row[: rng.integers(0, 5)])
    if kind == "columns added":
        return b"\t".join(row + [b"x"] * rng.integers(1, 4))
    if kind == "line cut":
        line = b"\t".join(row)
        return line[: rng.integers(0, len(line))]
    if kind == "base64 damaged":
        place = rng.integers(0, len(row[4]))
        row[4] = row[4][:place] + rng.bytes(rng.integers(1, 5)).translate(None, b"\n") + row[4][place + 2 :]
    elif kind == "box damaged":
        words = ["nan", "inf", "1e400", "-1", "", "9" * 5000, "0x10", "١", "1e-320", "5"]
        row[3] = ",".join(words[i] for i in rng.integers(0, len(words), rng.integers(1, 6))).encode()
    elif kind == "text damaged":
        row[2] = rng.bytes(rng.integers(0, 3000)).translate(None, b"\n\t")
    elif kind == "image truncated":
        image = any_picture(rng)
        row[4] = base64.b64encode(image[: rng.integers(0, len(image))])
    elif kind == "image flipped":
        row[4] = base64.b64encode(flipped(rng, any_picture(rng)))
    elif kind == "image head flipped":
        image = any_picture(rng)
        row[4] = base64.b64encode(flipped(rng, image[:64]) + image[64:])
    else:
        row[4] = base64.b64encode({"huge": huge, "zip bomb": zip_bomb, "animation": animation}[kind](rng))
    return b"\t".join(row)


KINDS = (
    "line flipped", "columns cut", "columns added", "line cut", "base64 damaged", "box damaged", "text damaged",
    "image truncated", "image flipped", "image head flipped", "huge", "zip bomb", "animation",
)  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return RefCOCO.build(tokenizer=Tokenizer.demo(), image_size=32, max_image_size=32)


def answers(path, task):
    """What reading each row gives: a sample, or the loader's own error. Anything else is raised."""
    try:
        rows = TaskDataset(TSVFile(path, task.columns, task.n_columns), task.encode, train=True)
    except UserError as error:  # a file of blank lines
        return [error]
    found = []
    for index in range(len(rows)):
        start = time.process_time()
        try:
            found.append(rows[index])
        except RowError as error:
            assert f"line {index + 1} of {path}: " in str(error) and "\n" not in str(error)
            found.append(error)
        assert time.process_time() - start < SECONDS, f"line {index + 1}: {found[-1]}"
    return found


def check(kind, path, task, n, seed):
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    path.write_bytes(b"\n".join(line_of(kind, rng) for _ in range(n)) + b"\n")
    before = peak_resident_bytes()
    found = answers(path, task)
    assert peak_resident_bytes() - before < GIB
    return found


@pytest.mark.filterwarnings("ignore")  # of Pillow, about damaged images
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_row_is_a_sample_or_an_error_of_its_line(kind, task, tmp_path):
    found = check(kind, tmp_path / "rows.tsv", task, n=30, seed=1)
    broken = sum(isinstance(item, UserError) for item in found)
    if kind == "animation":
        assert not broken  # the first frame is the image
    elif kind in ("columns cut", "columns added", "huge"):
        assert broken == len(found)
    else:
        assert broken


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_rows(kind, task, tmp_path):
    for seed in range(2, 10):
        check(kind, tmp_path / f"rows{seed}.tsv", task, n=100, seed=seed)


def test_an_image_whose_size_is_honest_and_within_bounds_is_read(task, tmp_path):
    (tmp_path / "rows.tsv").write_bytes(b"\t".join(cells(any_picture(np.random.default_rng(0)))))
    (sample,) = answers(tmp_path / "rows.tsv", task)
    assert isinstance(sample, Sample) and sample.image.shape == (3, 32, 32)
