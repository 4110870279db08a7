"""Sources that the library `datasets` reads."""

import base64
import io
import json
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import pyarrow.parquet
import pytest
from helpers.datasets import write_jpeg
from PIL import Image

from data.prepare.__main__ import main


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def convert(tmp_path, source, task, *words):
    words = ["hf", "--source", str(source), "--task", task, "--out", str(tmp_path / "own.tsv"), *words]
    status = main([*words, "--workers", "1"])
    return status or [line.split("\t") for line in (tmp_path / "own.tsv").read_text().splitlines()]


def test_parquet_gives_images_byte_for_byte_and_labels_by_name(tmp_path):
    photo = write_jpeg(tmp_path / "a.jpg").read_bytes()
    names = ["contradiction", "entailment"]
    rows = [{"picture": {"bytes": photo, "path": "a.jpg"}, "text": "It is", "label": label} for label in (1, 0, -1)]
    features = {
        "picture": datasets.Image(),
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=names),
    }
    path = tmp_path / "pairs.parquet"
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(path)
    rows = convert(tmp_path, path, "snli_ve", "--map", "image=picture", "hypothesis=text")
    encoded = base64.b64encode(photo).decode()
    assert rows == [["1", "1", encoded, "It is", "", "entailment"], ["2", "2", encoded, "It is", "", "contradiction"]]
    (left_out,) = map(json.loads, (tmp_path / "own.rejected.jsonl").read_text().splitlines())
    assert left_out["where"].startswith("example 3 of ") and "the label ''" in left_out["reason"]


def test_json_lines_name_images_next_to_them_and_lists_are_joined(tmp_path):
    write_jpeg(tmp_path / "photos/a.jpg")
    lines = [
        {"file": "photos/a.jpg", "captions": ["a cup", "one&&cup"]},
        {"file": "https://x.org/a.jpg", "captions": []},
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = convert(tmp_path, tmp_path / "own.jsonl", "caption", "--map", "image=file", "caption=captions")
    assert row[:4] == ["1", "photos/a.jpg", "a cup&&one&cup", ""]
    assert "download it first" in (tmp_path / "own.rejected.jsonl").read_text()


def test_a_folder_of_images_with_its_metadata(tmp_path):
    write_jpeg(tmp_path / "photos/a.jpg")
    line = {"file_name": "a.jpg", "text": "cup", "bbox": [1, 2, 10, 20.5]}
    (tmp_path / "photos/metadata.jsonl").write_text(json.dumps(line) + "\n")
    words = ("--map", "box=bbox", "--box-format", "xywh")
    (row,) = convert(tmp_path, tmp_path / "photos", "refcoco", *words)
    assert row[1:4] == ["a.jpg", "cup", "1.0,2.0,11.0,22.5"]
    assert base64.b64decode(row[4]) == (tmp_path / "photos/a.jpg").read_bytes()


def test_a_folder_of_parquet_files_is_read_by_its_splits(tmp_path):
    photo = {"bytes": write_jpeg(tmp_path / "a.jpg").read_bytes(), "path": None}
    folder = tmp_path / "own" / "data"
    folder.mkdir(parents=True)
    for name, count in (("train-00000-of-00002", 2), ("train-00001-of-00002", 1), ("test-00000-of-00001", 1)):
        write_undecoded(folder / f"{name}.parquet", [{"image": photo}] * count)
    assert [row[0] for row in convert(tmp_path, folder.parent, "caption")] == ["1", "2", "3"]


def test_images_in_an_archive_are_fetched_from_it(tmp_path):
    photo = write_jpeg(tmp_path / "a.jpg")
    shutil.copy(photo, tmp_path / "b.jpg")
    zip_photos(tmp_path, "a.jpg", "b.jpg")
    rows = [{"image": {"bytes": None, "path": f"zip://{name}::{tmp_path}/photos.zip"}} for name in ("a.jpg", "b.jpg")]
    table = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image(decode=False)}))
    table.to_parquet(tmp_path / "own.parquet")
    zip_photos(tmp_path, "a.jpg")
    (row,) = convert(tmp_path, tmp_path / "own.parquet", "caption")
    assert base64.b64decode(row[4]) == photo.read_bytes()
    assert "example 2" in (tmp_path / "own.rejected.jsonl").read_text()


@pytest.fixture
def server():
    """An address that serves any image, and the requested paths."""
    asked, photo = [], io.BytesIO()
    Image.new("RGB", (60, 40)).save(photo, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(photo.getvalue())))
            self.end_headers()
            self.wfile.write(photo.getvalue())

        do_HEAD = do_GET

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


@pytest.mark.parametrize("address", ["{}/a.png", "zip://a.png::{}/a.zip", "simplecache::{}/a.png", "memory://a.png"])
def test_a_file_cannot_have_an_address_fetched(tmp_path, server, address):
    url, asked = server
    photo = write_jpeg(tmp_path / "a.jpg").read_bytes()
    images = [(photo, None), (None, address.format(url))]
    write_undecoded(tmp_path / "own.parquet", [{"image": {"bytes": b, "path": path}} for b, path in images])
    assert len(convert(tmp_path, tmp_path / "own.parquet", "caption")) == 1
    (left_out,) = map(json.loads, (tmp_path / "own.rejected.jsonl").read_text().splitlines())
    assert left_out["where"].startswith("example 2 of ") and "download it first" in left_out["reason"]
    assert not asked


def test_images_of_columns_that_are_not_read_are_not_fetched(tmp_path, server):
    url, asked = server
    photo = write_jpeg(tmp_path / "a.jpg").read_bytes()
    row = {"image": {"bytes": photo, "path": None}, "other": {"bytes": None, "path": f"{url}/a.png"}}
    write_undecoded(tmp_path / "own.parquet", [row])
    assert len(convert(tmp_path, tmp_path / "own.parquet", "caption")) == 1
    assert not asked


def write_undecoded(path, rows):
    """A Parquet file of images as they are given, which `datasets` would decode and fetch now."""
    schema = datasets.Features({name: datasets.Image() for name in rows[0]}).arrow_schema
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def test_an_image_in_an_archive_that_is_too_large_is_left_out(tmp_path, monkeypatch):
    write_jpeg(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(bytes(10_000))
    zip_photos(tmp_path, "a.jpg", "b.jpg")
    monkeypatch.setattr("data.datasets_source.MAX_DOWNLOAD", (tmp_path / "a.jpg").stat().st_size)
    names = [f"zip://{name}::{tmp_path}/photos.zip" for name in ("a.jpg", "b.jpg")]
    write_undecoded(tmp_path / "own.parquet", [{"image": {"bytes": None, "path": name}} for name in names])
    assert len(convert(tmp_path, tmp_path / "own.parquet", "caption")) == 1
    assert "bytes allowed" in (tmp_path / "own.rejected.jsonl").read_text()


def zip_photos(folder, *names):
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for name in names:
            archive.write(folder / name, name)


def test_answers_of_several_people_are_counted(tmp_path):
    write_jpeg(tmp_path / "a.jpg")
    answers = [{"answer": "red"}] * 3 + [{"answer": "Blue"}] + [{"answer": "green"}] * 6
    (tmp_path / "own.jsonl").write_text(json.dumps({"image": "a.jpg", "question": "What?", "people": answers}))
    (row,) = convert(tmp_path, tmp_path / "own.jsonl", "vqa", "--map", "answers=people")
    assert row[2:4] == ["What?", "1.0|!+green&&0.9|!+red&&0.3|!+Blue"]
    assert json.loads((tmp_path / "own.answers.json").read_text()) == {"green": 0}


@pytest.mark.parametrize(
    ("source", "words", "complaint"),
    [
        ("own.txt", (), "is not one of the files that are read: .parquet"),
        ("own.jsonl", ("--split", "val"), "--split val cannot be read: Bad split"),
        ("own.jsonl", (), "has no field 'image', which caption needs, only photo"),
        ("tables", (), "tables has neither Parquet files nor images; name one of its files instead"),
        ("broken.parquet", (), "cannot be read"),
        ("broken.jsonl", (), "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_read_is_a_clear_error(tmp_path, capsys, source, words, complaint):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/own.jsonl").write_text('{"image": "a.jpg"}\n')
    (tmp_path / "own.txt").write_text("x")
    (tmp_path / "broken.parquet").write_text("x")
    (tmp_path / "broken.jsonl").write_text('{"image": "a.jpg"')
    (tmp_path / "own.jsonl").write_text('{"photo": "a.jpg"}\n')
    assert convert(tmp_path, tmp_path / source, "caption", *words) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.startswith("error: ") and "Traceback" not in error
