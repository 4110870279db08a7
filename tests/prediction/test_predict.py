import csv
import json
import os

import numpy as np
import pytest
import torch
from helpers.runs import run
from hydra import compose, initialize_config_dir
from PIL import Image

from ofa import OFAConfig, OFAModel, pipeline
from ofa.checkpoint import TaskSettings, export
from ofa.errors import UserError
from ofa.prediction.batches import check_texts, predict_each
from ofa.prediction.drawing import draw, save_image
from ofa.prediction.inputs import PredictionInput, read_inputs
from ofa.prediction.journal import Journal
from ofa.tokenizer import Tokenizer
from runtime.overrides import CONFIGS, quote_values


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


@pytest.fixture(scope="module")
def pipe(model):
    return pipeline("visual-grounding", model)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_folder_is_answered_and_an_interrupted_run_goes_on(model, photos, tmp_path):
    words = [f"checkpoint={model}", "input=photos", "text=what's red, (left)?", "batch_size=2"]
    process = run("predict.py", *words, folder=tmp_path)
    assert "4 predictions in" in process.stdout and "1 inputs failed" in process.stdout
    out = tmp_path / "outputs/predict/photos"
    records = lines(out / "predictions.jsonl")
    names = ["a.png", "b.jpg", "c.png", "e.JPG", "more/d.png"]
    assert [record["image"] for record in records] == [f"photos/{name}" for name in names]
    assert "no picture of a known kind" in records[2]["error"] and len(records[0]["boxes"][0]) == 4
    assert all(record["asked_text"] == "what's red, (left)?" for record in records)
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        "000000_a.jpg", "000001_b.jpg", "000003_e.jpg", "000004_d.jpg",
    ]  # fmt: skip

    whole = (out / "predictions.jsonl").read_bytes().splitlines(True)
    (out / "predictions.jsonl").write_bytes(b"".join(whole[:3]) + whole[3][:20])  # killed while it wrote the fourth
    (out / "pictures/000000_a.jpg").unlink()
    for name in ("c.png", "0.png"):  # what was broken is mended, and a picture is added
        Image.new("RGB", (30, 20), "red").save(photos / name)
    run("predict.py", *words, folder=tmp_path)
    again = lines(out / "predictions.jsonl")
    assert [record["image"] for record in again] == [f"photos/{name}" for name in ("0.png", *names)]
    assert all("boxes" in record for record in again)
    assert [again[i] for i in (1, 2)] == records[:2]
    assert not (out / "pictures/000001_a.jpg").exists()  # what was answered is not answered again


def test_a_table_has_a_text_for_each_picture(pipe, photos):
    with (photos / "asked.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "text"], ["a.png", "the cat, left"], ["b.jpg", ""], ["a.png", "dog"]])
    questions = read_inputs(photos / "asked.csv", "visual-grounding", {}, photos / "out")
    assert [(q.path.name, q.texts["text"]) for q in questions] == [
        ("a.png", "the cat, left"), ("b.jpg", ""), ("a.png", "dog"),
    ]  # fmt: skip
    answers = [answer for *_, answer in predict_each(pipe, questions)]
    assert "the text is empty" in answers[1]["error"]
    for i in (0, 2):
        alone = pipe(questions[i].path, questions[i].texts["text"])
        assert answers[i]["boxes"] == [pytest.approx(alone["boxes"][0], abs=1e-3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("picture,text\na.png,x\n", "has no column image; its columns are picture, text"),
        ("image\na.png\n", "has no column text"),
        ("image,text\na.png\n", "line 2 of .*asked.csv has more or fewer cells"),
        ("image,text\na.png,the cat, left\n", "line 2 of .*asked.csv has more or fewer cells .* quotation marks"),
        ("image,text\n,cat\n", "line 2 of .*asked.csv has no image"),
        ("image,text,text\na.png,cat,dog\n", "has two columns text"),
        ("image,text\n", "contains no image"),
        (b"image,text\n\xff\xfe,x\n", "is not a CSV file in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(photos, content, message):
    (photos / "asked.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_inputs(photos / "asked.csv", "visual-grounding", {}, photos / "out")


def test_texts_that_are_missing_given_twice_or_of_no_use_are_refused(photos, tmp_path):
    def read(source, pipeline, **given):
        return read_inputs(source, pipeline, given, tmp_path / "out")

    with pytest.raises(UserError, match="visual-grounding needs a text for each image: set text,"):
        read(photos, "visual-grounding")
    with pytest.raises(UserError, match="caption=x: visual-grounding reads only the image and text;"):
        read(photos, "visual-grounding", text="why?", caption="x")
    (photos / "asked.csv").write_text("image,text\na.png,cat\n")
    with pytest.raises(UserError, match="text=dog is set, and .*asked.csv has a column text"):
        read(photos / "asked.csv", "visual-grounding", text="dog")
    with pytest.raises(UserError, match="nowhere does not exist"):
        read(tmp_path / "nowhere", "image-captioning")
    with pytest.raises(UserError, match="is the input folder"):
        read_inputs(photos, "image-captioning", {}, leave_out=photos)


def test_a_text_no_picture_can_be_asked_is_refused_before_the_first(pipe, photos):
    questions = [PredictionInput(photos / name, {"text": "  "}) for name in ("a.png", "b.jpg")]
    with pytest.raises(UserError, match="the text is empty"):
        check_texts(pipe, questions)
    check_texts(pipe, [questions[0], PredictionInput(photos / "b.jpg", {"text": "a cat"})])  # each has its own


def test_pictures_that_were_written_are_no_questions(photos):
    (photos / "out/pictures").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(photos / "out/pictures/x.png")
    questions = read_inputs(photos, "image-captioning", {}, leave_out=photos / "out")
    assert [question.path.name for question in questions] == ["a.png", "b.jpg", "c.png", "e.JPG", "d.png"]


def test_answers_of_another_checkpoint_are_not_mixed_in(tmp_path):
    questions = [PredictionInput(tmp_path / "a.png", {})]
    Journal(tmp_path, {"checkpoint": "that could not be loaded"}, questions)
    with Journal(tmp_path, {"checkpoint": "one"}, questions) as journal:
        journal.write(questions[0], {"text": "a wall", "score": 0.5})
    assert Journal(tmp_path, {"checkpoint": "one"}, questions).pending == []
    with pytest.raises(UserError, match="predictions of another checkpoint, vocabulary, task or precision; set output"):
        Journal(tmp_path, {"checkpoint": "two"}, questions)


def test_any_text_and_any_name_of_a_file_is_kept(tmp_path):
    names = ["line\u2028end.png", os.fsdecode(b"b\xe4r.png"), "tab\t.png"]
    questions = [PredictionInput(tmp_path / name, {"text": "\u2028\x85 é"}) for name in names]
    with Journal(tmp_path, {}, questions) as journal:
        for _, question in journal.pending:
            journal.write(question, {"text": "ü"})
    journal = Journal(tmp_path, {}, questions)
    assert journal.pending == [] and journal.n_failed == 0


def test_a_question_asked_twice_is_answered_once_and_written_twice(tmp_path):
    questions = [PredictionInput(tmp_path / name, {}) for name in ("a", "b", "a")]
    with Journal(tmp_path, {}, questions) as journal:
        assert [number for number, _ in journal.pending] == [0, 1]
        for _, question in journal.pending:
            journal.write(question, {"error": "x"} if question.path.name == "a" else {"text": "y"})
    assert journal.n_failed == 2 and [r["image"][-1] for r in lines(journal.file)] == ["a", "b", "a"]


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "predictions.jsonl").write_text('{"image": "a.png", "text": "x"}\n{"image"\n')
    with pytest.raises(UserError, match="line 2 of .*predictions.jsonl is not a prediction"):
        Journal(tmp_path, {}, [PredictionInput(tmp_path / "a.png", {})])


def test_a_box_is_drawn_where_it_is_in_the_picture(photos):
    question = PredictionInput(photos / "wide.png", {"text": "the corner"})
    drawn = draw(question, Image.new("RGB", (400, 200), "white"), {"boxes": [[100, 50, 300, 150]], "scores": [0.5]})
    assert drawn.getpixel((100, 100)) == (255, 0, 0) and drawn.getpixel((200, 100)) == (255, 255, 255)
    assert drawn.height > 200 and drawn.width == 400


def test_a_picture_that_cannot_be_written_is_named_and_costs_nothing_else(photos, tmp_path, caplog):
    answer = {"boxes": [[1, 2, 3, 4]], "scores": [0.5]}
    question = PredictionInput(photos / f"{'x' * 200}.png", {"text": "a"})
    image = Image.new("RGB", (40, 20))
    save_image(tmp_path / "pictures", 7, question, image, answer)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == [f"000007_{'x' * 60}.jpg"]
    (tmp_path / "file").write_text("")
    save_image(tmp_path / "file", 7, question, image, answer)
    assert "cannot be written" in caplog.text


TEXTS = ["the mug (left)", "5", "null", r"a\'b", "a\\", "costs ${5}", "x: [1,2]", "a=b, c", 'say "hi"', ""]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_taken_as_they_are_typed(text):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("predict", [*quote_values([f"text={text}"], ("text",)), "input=photos", "checkpoint=RUN"])
    assert config.text == text


def test_settings_of_a_task_are_those_of_the_checkpoint(model, tmp_path):
    words = [f"checkpoint={model}", "input=photos", "task=refcoco", "task.image_size=64"]
    process = run("predict.py", *words, folder=tmp_path, check=False)
    assert "task.image_size=64: predict.py uses the settings stored with the checkpoint" in process.stderr
