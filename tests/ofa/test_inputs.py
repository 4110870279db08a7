import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image

from ofa.errors import UserError
from ofa.inputs import InputError, read_image

RED = np.full((20, 30, 3), (200, 10, 10), np.uint8)


def png(array=RED):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def server():
    """A local server that only has /red.png."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/red.png" else 404)
            self.end_headers()
            self.wfile.write(png() if self.path == "/red.png" else b"")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def file(tmp_path):
    (tmp_path / "red.png").write_bytes(png())
    return tmp_path / "red.png"


def test_paths_pil_images_and_arrays_give_the_same_image(file):
    with_alpha = np.dstack([RED, np.full((20, 30), 128, np.uint8)])
    for given in (file, str(file), Image.fromarray(RED), RED, RED / 255.0, with_alpha):
        image = read_image(given)
        assert image.mode == "RGB" and image.size == (30, 20)
        assert np.array_equal(np.asarray(image), RED)
    grey = np.full((4, 6), 77, np.uint8)
    for given in (grey, grey[..., None]):
        assert np.array_equal(np.asarray(read_image(given)), np.dstack([grey] * 3))


def test_a_url_is_fetched_and_one_without_an_image_is_named(server):
    assert np.array_equal(np.asarray(read_image(f"{server}/red.png")), RED)
    with pytest.raises(InputError, match="/blue.png cannot be downloaded .*Not Found"):
        read_image(f"{server}/blue.png")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.jpg", "nowhere.jpg cannot be read"),
        (17, "not as a int"),
        ("a\0b.jpg", r"the image 'a\\x00b.jpg' cannot be read"),
        ("http://127.0.0.1:1/a b.jpg", "a b.jpg cannot be downloaded"),
        ("http://127.0.0.1:1/a\nb.jpg", "cannot be downloaded"),
        ("HTTP://127.0.0.1:1/a.jpg", "a.jpg cannot be downloaded"),
        ("http://[::1/a.jpg", "cannot be downloaded"),
        (Image.new("F", (4, 4), 200), "the image cannot be used: its values are of 32 bits with fractions"),
        (Image.new("I", (4, 4), -1), "the image cannot be used: its values range from -1 to -1"),
        (Image.new("I", (4, 4), 70000), "its values range from 70000 to 70000"),
        (np.zeros((2, 2, 7), np.uint8), r"an array of shape \[2, 2, 7\] is not an image"),
        (np.zeros((0, 3), np.uint8), "is not an image"),
        (np.full((2, 2), 300.0), "fractions from 0 to 1"),
        (np.zeros((2, 2), np.int64), "an array of int64 is not an image"),
    ],
)
def test_an_unusable_image_is_a_clear_error(given, message):
    with pytest.raises(InputError, match=message):
        read_image(given)
    assert issubclass(InputError, UserError)


def test_whole_numbers_are_bytes_or_16_bits(tmp_path):
    for value, expected in ((200, 200), (255, 255), (256 * 77, 77), (65535, 255)):
        image = Image.fromarray(np.full((4, 6), value, np.int32))
        assert image.mode == "I" and np.array_equal(np.asarray(read_image(image)), np.full((4, 6, 3), expected))
    Image.fromarray(np.full((4, 6), 200, np.uint16)).save(tmp_path / "dark.png")
    assert not np.asarray(read_image(tmp_path / "dark.png")).any()
    assert not np.asarray(read_image(Image.open(tmp_path / "dark.png"))).any()


def test_a_damaged_file_is_named_and_a_closed_or_huge_image_refused(file, tmp_path, monkeypatch):
    image = Image.open(file)
    image.close()
    with pytest.raises(InputError, match="the image does not decode"):
        read_image(image)
    (tmp_path / "half.png").write_bytes(png(np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8))[:2000])
    with pytest.raises(InputError, match=r"half.png cannot be used: it does not decode"):
        read_image(tmp_path / "half.png")
    monkeypatch.setattr("ofa.inputs.MAX_PIXELS", 100)
    with pytest.raises(InputError, match="the array is 30 x 20 px, more than the 100 px allowed"):
        read_image(RED)
