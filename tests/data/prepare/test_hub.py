"""Sources that the library `datasets` reads."""

import base64
import json
import zipfile

import datasets
import pytest
from raw_data import write_jpeg

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


def test_json_lines_name_images_beside_them_and_lists_are_joined(tmp_path):
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


def test_images_in_an_archive_are_fetched_from_it(tmp_path):
    photo = write_jpeg(tmp_path / "a.jpg")
    zip_photos(tmp_path, "a.jpg", "b.jpg")
    rows = [{"image": {"bytes": None, "path": f"zip://{name}::{tmp_path}/photos.zip"}} for name in ("a.jpg", "b.jpg")]
    table = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image(decode=False)}))
    table.to_parquet(tmp_path / "own.parquet")
    zip_photos(tmp_path, "a.jpg")
    (row,) = convert(tmp_path, tmp_path / "own.parquet", "caption")
    assert base64.b64decode(row[4]) == photo.read_bytes()
    assert "example 2" in (tmp_path / "own.rejected.jsonl").read_text()


def zip_photos(folder, *names):
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for name in names:
            archive.write(folder / "a.jpg", name)


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
        ("own.jsonl", (), "has no field 'image', which caption needs, only picture"),
        ("broken.parquet", (), "cannot be read"),
        ("broken.jsonl", (), "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_sentence(tmp_path, capsys, source, words, complaint):
    (tmp_path / "own.txt").write_text("x")
    (tmp_path / "broken.parquet").write_text("x")
    (tmp_path / "broken.jsonl").write_text('{"image": "a.jpg"')
    (tmp_path / "own.jsonl").write_text('{"picture": "a.jpg"}\n')
    assert convert(tmp_path, tmp_path / source, "caption", *words) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.startswith("error: ") and "Traceback" not in error
