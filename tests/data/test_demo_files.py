"""The demo's files of each task: columns, labels, ids and what no two splits share."""

import base64
import hashlib
import io
import itertools
import json
import re
from collections import Counter

import pytest
from helpers.demo import demo_files
from PIL import Image

from data.demo.language import KINDS, LABELS
from data.demo.scenes import SceneConfig
from data.demo.source import read_scenes
from data.layout import task_names
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer

CONFIG = SceneConfig(image_size=32)
ROWS = {"train": 90, "evaluation": 30}
COLUMNS = {  # of the published files; image_id and image mean the same everywhere
    "refcoco": ("uniq_id", "image_id", "text", "box", "image"),
    "refcocog": ("uniq_id", "image_id", "text", "box", "image"),
    "caption": ("uniq_id", "image_id", "caption", "objects", "image"),
    "caption_scst": ("uniq_id", "image_id", "caption", "objects", "image"),
    "snli_ve": ("uniq_id", "image_id", "image", "hypothesis", "caption", "label"),
    "vqa": ("uniq_id", "image_id", "question", "answers", "objects", "image"),
}
every_task = pytest.mark.parametrize("task", COLUMNS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    return {task: demo_files(task, root, CONFIG, ROWS) for task in COLUMNS}


def rows(file, task):
    lines = file.read_text().splitlines()
    return [dict(zip(COLUMNS[task], line.split("\t"), strict=True)) for line in lines]


@every_task
def test_files_have_the_published_columns_and_a_record_for_each_row(files, task):
    assert list(files[task]) == ["train", *(["val", "testA", "testB"] if task == "refcoco" else ["val", "test"])]
    for split, file in files[task].items():
        records = read_scenes(file)
        written = rows(file, task)
        assert len(written) == len(records) == ROWS["train" if split == "train" else "evaluation"]
        for row, record in zip(written, records, strict=True):
            assert row["uniq_id"] == record.uniq_id
            assert 2 <= len(record.boxes) <= CONFIG.max_objects
            assert "box" not in row or [float(side) for side in row["box"].split(",")] in record.boxes
            assert Image.open(io.BytesIO(base64.b64decode(row["image"]))).size == (record.width, record.height)


@every_task
def test_no_two_splits_show_scenes_of_the_same_content(tmp_path, task, monkeypatch):
    monkeypatch.setattr("data.demo.source._record_line", lambda row: row.scene.key)
    few = SceneConfig(image_size=16, grid=2, max_objects=2, n_colours=3, n_shapes=2)  # 144 contents
    files = demo_files(task, tmp_path, few, {"train": 300, "evaluation": 60})
    contents = [set(file.with_suffix(".scenes.jsonl").read_text().splitlines()) for file in files.values()]
    assert len(set.union(*contents)) > 100
    for first, second in itertools.combinations(contents, 2):
        assert first and second and not first & second


def test_training_for_captions_sees_one_of_five_and_evaluation_all(files):
    for split, file in files["caption"].items():
        counts = {len(row["caption"].split("&&")) for row in rows(file, "caption")}
        assert counts == ({1} if split == "train" else {5})
    starts = Counter(row["caption"].split()[0] for row in rows(files["caption"]["train"], "caption"))
    assert {"there", "the"} < starts.keys()


def test_scst_has_all_captions_in_training_too_and_an_image_id_for_each_row(files):
    written = [row for file in files["caption_scst"].values() for row in rows(file, "caption_scst")]
    assert all(len(row["caption"].split("&&")) == 5 for row in written)
    assert len({row["image_id"] for row in written}) == len(written)


def test_a_third_of_the_hypotheses_has_each_label_in_no_order(files):
    for file in files["snli_ve"].values():
        labels = [row["label"] for row in rows(file, "snli_ve")]
        third = len(labels) // 3
        assert Counter(labels) == {"entailment": third, "contradiction": third, "neutral": third}
        assert len(set(labels[: third // 2])) > 1


def test_settings_without_a_contradiction_are_refused(tmp_path):
    few = SceneConfig(image_size=16, grid=2, max_objects=2, n_colours=2, n_shapes=1)
    with pytest.raises(UserError, match=r"allow no contradiction; raise data\.scenes\.n_colours"):
        demo_files("snli_ve", tmp_path, few, ROWS)
    assert not list(tmp_path.iterdir())


def test_questions_are_numbered_and_their_answers_listed(files):
    folder = files["vqa"]["train"].parent
    listed = json.loads((folder / "answers.json").read_text())
    assert list(listed) == sorted(listed) and list(listed.values()) == list(range(len(listed)))
    assert {"yes", "no", "0", "4", "red", "circle", "red circle"} <= listed.keys()
    written = [row for file in files["vqa"].values() for row in rows(file, "vqa")]
    assert len({int(row["uniq_id"]) for row in written}) == len(written)
    for row in written:
        for entry in row["answers"].split("&&"):
            confidence, answer = entry.split("|!+")
            assert 0 < float(confidence) <= 1 and answer in listed
        assert row["objects"] and set(row["objects"].split("&&")) <= set(CONFIG.shapes)


def test_questions_are_of_all_kinds_and_a_look_exists_as_often_as_not(tmp_path):
    file = demo_files("vqa", tmp_path, CONFIG, {"train": 1200, "evaluation": 3})["train"]
    kinds = [record.kind for record in read_scenes(file)]
    assert Counter(kinds).keys() == set(KINDS) and min(Counter(kinds).values()) > 1200 / 6 * 0.7
    answers = Counter(r["answers"] for r, kind in zip(rows(file, "vqa"), kinds, strict=True) if kind == "exists")
    assert answers["1.0|!+yes"] / answers.total() == pytest.approx(0.5, abs=0.15)  # four standard errors


def test_each_word_of_all_tasks_is_one_token(tmp_path):
    tokenizer = Tokenizer.demo()
    config = SceneConfig(image_size=32, difficulty="medium", max_objects=10, n_colours=10, n_shapes=8)
    texts = set()
    for task in task_names():
        for file in demo_files(task, tmp_path, config, {"train": 300, "evaluation": 10}).values():
            for line in file.read_text().splitlines():
                texts.update(column for column in line.split("\t")[2:] if len(column) < 500)
    words = set(re.findall(r"[a-z]+|(?<![.\d])\d+(?![.\d])", " ".join(texts)))
    assert {"crosses", "color", "expensive", "10"} <= words
    assert not [word for word in words - set(LABELS) if len(tokenizer.encode(word)) != 1]  # labels are never spoken


@pytest.mark.parametrize(
    ("task", "digest"),
    [
        ("refcoco", "173a53716dbbd7238f5433dc420965164fb4996b602758e0a247873497030a98"),
        ("refcocog", "8080cfbc13bb09341aa676c2a6af2c83d20dcef7d07dc759eb7bd8ec161e43f2"),
    ],
)
def test_a_seed_writes_the_referring_expressions_it_always_wrote(tmp_path, task, digest):
    """Recorded; all but the images, whose bytes depend on the versions of Pillow and zlib."""
    written = hashlib.sha256()
    for file in demo_files(task, tmp_path, CONFIG, {"train": 12, "evaluation": 5}).values():
        for line in file.read_text().splitlines():
            written.update(("\t".join(line.split("\t")[:4]) + "\n").encode())
        written.update(file.with_suffix(".scenes.jsonl").read_bytes())
    assert written.hexdigest() == digest
