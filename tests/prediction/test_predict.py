import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from runs import run

from ofa import OFAConfig, OFAModel, pipeline
from ofa.checkpoint import TaskSettings, export
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer
from prediction.answering import answer_each
from prediction.journal import Journal
from prediction.pictures import save_picture
from prediction.questions import PictureQuestion, read_questions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    network = OFAModel(OFAConfig.from_name("micro", init_std=0.3)).eval()
    settings = TaskSettings("visual-grounding", {"image_size": 32, "max_image_size": 32})
    export(folder, network, Tokenizer.demo(), settings)
    return folder


@pytest.fixture
def photos(tmp_path):
    """A folder of five pictures, one of them broken, one in a folder of its own, beside a text."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "more/d.png", "e.JPG"):
        Image.fromarray(rng.integers(0, 255, (30, 60, 3), np.uint8)).save(folder / name)
    (folder / "c.png").write_text("no picture")
    (folder / "notes.txt").write_text("nothing")
    return folder


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_folder_is_answered_and_an_interrupted_run_goes_on(model, photos, tmp_path):
    words = [f"checkpoint={model}", "input=photos", "text=the red circle", "batch_size=2"]
    process = run("predict.py", *words, folder=tmp_path)
    assert "5 answers in" in process.stdout and "1 pictures could not be used" in process.stdout
    out = tmp_path / "outputs/predict/photos"
    records = lines(out / "predictions.jsonl")
    assert [record["image"] for record in records] == [
        f"photos/{n}" for n in ("a.png", "b.jpg", "c.png", "e.JPG", "more/d.png")
    ]
    assert "no picture of a known kind" in records[2]["error"] and len(records[0]["boxes"][0]) == 4
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        "000000_a.jpg", "000001_b.jpg", "000003_e.jpg", "000004_d.jpg",
    ]  # fmt: skip

    whole = (out / "predictions.jsonl").read_bytes()
    cut = whole[: whole.index(b"\n", whole.index(b"\n") + 1) + 20]  # in the middle of the third line
    (out / "predictions.jsonl").write_bytes(cut)
    (out / "pictures/000000_a.jpg").unlink()
    run("predict.py", *words, folder=tmp_path)
    assert [r["image"] for r in lines(out / "predictions.jsonl")] == [r["image"] for r in records]
    assert not (out / "pictures/000000_a.jpg").exists()  # what was answered is not answered again
    other = run("predict.py", *words[:2], "text=the blue square", folder=tmp_path, check=False)
    assert "line 1 of" in other.stderr and "answers another question" in other.stderr.splitlines()[-1]


def test_a_table_has_a_text_for_each_picture(model, photos):
    with (photos / "asked.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "text"], ["a.png", "the cat, left"], ["b.jpg", ""], ["a.png", "dog"]])
    questions = read_questions(photos / "asked.csv", "visual-grounding", None, None, photos / "out")
    assert [(q.path.name, q.texts["text"]) for q in questions] == [
        ("a.png", "the cat, left"), ("b.jpg", ""), ("a.png", "dog"),
    ]  # fmt: skip
    pipe = pipeline("visual-grounding", model)
    answers = [answer for _, answer in answer_each(pipe, questions)]
    assert "the text is empty" in answers[1]["error"]
    for i in (0, 2):
        alone = pipe(questions[i].path, questions[i].texts["text"])
        assert answers[i]["boxes"] == [pytest.approx(alone["boxes"][0], abs=1e-3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("picture,text\na.png,x\n", "has no column image; its first line names picture, text"),
        ("image\na.png\n", "has no column text"),
        ("image,text\na.png\n", "line 2 of .*asked.csv has no image, or fewer cells"),
        ("image,text\n", "holds no picture"),
        (b"image,text\n\xff\xfe,x\n", "is not a CSV in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(photos, content, message):
    (photos / "asked.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_questions(photos / "asked.csv", "visual-grounding", None, None, photos / "out")


def test_texts_that_are_missing_or_of_no_use_are_refused(photos, tmp_path):
    with pytest.raises(UserError, match="visual-grounding asks a text about each picture: set text="):
        read_questions(photos, "visual-grounding", None, None, tmp_path / "out")
    with pytest.raises(UserError, match="caption=x: visual-question-answering asks about the picture alone"):
        read_questions(photos, "visual-question-answering", "why?", "x", tmp_path / "out")
    with pytest.raises(UserError, match="nowhere does not exist"):
        read_questions(tmp_path / "nowhere", "image-captioning", None, None, tmp_path / "out")


def test_pictures_that_were_written_are_no_questions(photos):
    (photos / "out/pictures").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(photos / "out/pictures/x.png")
    questions = read_questions(photos, "image-captioning", None, None, leave_out=photos / "out")
    assert [question.path.name for question in questions] == ["a.png", "b.jpg", "c.png", "e.JPG", "d.png"]


def test_answers_of_another_checkpoint_are_not_mixed_in(tmp_path):
    questions = [PictureQuestion(tmp_path / "a.png", {})]
    with Journal(tmp_path, {"checkpoint": "one"}, questions) as journal:
        journal.write({"text": "a wall", "score": 0.5})
    with Journal(tmp_path, {"checkpoint": "one"}, questions) as journal:
        assert journal.n_answered == 1
    with pytest.raises(UserError, match="answers of another checkpoint, task or precision; set output="):
        Journal(tmp_path, {"checkpoint": "two"}, questions)


def test_a_box_is_drawn_where_it_is_in_the_picture(photos, tmp_path):
    Image.new("RGB", (400, 200), "white").save(photos / "wide.png")
    question = PictureQuestion(photos / "wide.png", {"text": "the corner"})
    save_picture(tmp_path / "p/x.png", question, {"boxes": [[100, 50, 300, 150]], "scores": [0.5]})
    drawn = Image.open(tmp_path / "p/x.png")
    assert drawn.getpixel((100, 100)) == (255, 0, 0) and drawn.getpixel((200, 100)) == (255, 255, 255)
    assert drawn.height > 200 and math.isclose(drawn.width, 400)


def test_settings_of_a_task_are_those_of_the_checkpoint(model, tmp_path):
    words = [f"checkpoint={model}", "input=photos", "task=refcoco", "task.image_size=64"]
    process = run("predict.py", *words, folder=tmp_path, check=False)
    assert "task.image_size=64: predict.py follows the settings kept with the checkpoint" in process.stderr
