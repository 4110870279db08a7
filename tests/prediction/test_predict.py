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
from ofa.cli import main
from ofa.errors import UserError
from ofa.prediction import check_texts, predict_each
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
    """A folder of five images, one of them broken and one in a subfolder, and a text file."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "more/d.png", "e.JPG"):
        Image.fromarray(rng.integers(0, 255, (30, 60, 3), np.uint8)).save(folder / name)
    (folder / "c.png").write_text("not an image")
    (folder / "notes.txt").write_text("nothing")
    return folder


@pytest.fixture(scope="module")
def pipe(model):
    return pipeline("visual-grounding", model)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_folder_is_predicted_and_an_interrupted_run_resumes(model, photos, tmp_path):
    arguments = [f"checkpoint={model}", "input=photos", "text=what's red, (left)?", "batch_size=2"]
    process = run("predict.py", *arguments, folder=tmp_path)
    assert "4 predictions in" in process.stdout and "1 inputs failed" in process.stdout
    out = tmp_path / "outputs/predict/photos"
    records = lines(out / "predictions.jsonl")
    names = ["a.png", "b.jpg", "c.png", "e.JPG", "more/d.png"]
    assert [record["image"] for record in records] == [f"photos/{name}" for name in names]
    assert "c.png cannot be used" in records[2]["error"] and len(records[0]["boxes"][0]) == 4
    assert all(record["asked_text"] == "what's red, (left)?" for record in records)
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        "000000_a.jpg", "000001_b.jpg", "000003_e.jpg", "000004_d.jpg",
    ]  # fmt: skip

    whole = (out / "predictions.jsonl").read_bytes().splitlines(True)
    (out / "predictions.jsonl").write_bytes(b"".join(whole[:3]) + whole[3][:20])  # killed while it wrote the fourth
    (out / "pictures/000000_a.jpg").unlink()
    for name in ("c.png", "0.png"):  # repair the broken image, and add one
        Image.new("RGB", (30, 20), "red").save(photos / name)
    run("predict.py", *arguments, folder=tmp_path)
    again = lines(out / "predictions.jsonl")
    assert [record["image"] for record in again] == [f"photos/{name}" for name in ("0.png", *names)]
    assert all("boxes" in record for record in again)
    assert [again[i] for i in (1, 2)] == records[:2]
    assert not (out / "pictures/000001_a.jpg").exists()  # an existing prediction is not repeated


def test_a_table_has_a_text_for_each_image(pipe, photos):
    with (photos / "asked.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "text"], ["a.png", "the cat, left"], ["b.jpg", ""], ["a.png", "dog"]])
    inputs = read_inputs(photos / "asked.csv", "visual-grounding", {}, photos / "out")
    assert [(q.path.name, q.texts["text"]) for q in inputs] == [
        ("a.png", "the cat, left"), ("b.jpg", ""), ("a.png", "dog"),
    ]  # fmt: skip
    predictions = [prediction for *_, prediction in predict_each(pipe, inputs)]
    assert "the text is empty" in predictions[1]["error"]
    for i in (0, 2):
        alone = pipe(inputs[i].path, inputs[i].texts["text"])
        assert predictions[i]["boxes"] == [pytest.approx(alone["boxes"][0], abs=1e-3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("photo,text\na.png,x\n", "has no column image; its columns are photo, text"),
        ("image\na.png\n", "has no column text"),
        ("image,text\na.png\n", "line 2 of .*asked.csv has more or fewer cells"),
        ("image,text\na.png,the cat, left\n", "line 2 of .*asked.csv has more or fewer cells .* quotation marks"),
        ("image,text\n,cat\n", "line 2 of .*asked.csv has no image"),
        ("image,text,text\na.png,cat,dog\n", "has two columns text"),
        ("image,text\n", "contains no image"),
        (b"image,text\n\xff\xfe,x\n", "is not a CSV file in UTF-8"),
    ],
)
def test_an_invalid_table_is_a_clear_error(photos, content, message):
    (photos / "asked.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_inputs(photos / "asked.csv", "visual-grounding", {}, photos / "out")


def test_missing_duplicate_and_unused_texts_are_refused(photos, tmp_path):
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


def test_an_invalid_text_is_refused_before_the_first_image(pipe, photos):
    inputs = [PredictionInput(photos / name, {"text": "  "}) for name in ("a.png", "b.jpg")]
    with pytest.raises(UserError, match="the text is empty"):
        check_texts(pipe, inputs)
    check_texts(pipe, [inputs[0], PredictionInput(photos / "b.jpg", {"text": "a cat"})])  # each has its own


def test_images_in_the_output_folder_are_not_inputs(photos):
    (photos / "out/pictures").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(photos / "out/pictures/x.png")
    inputs = read_inputs(photos, "image-captioning", {}, leave_out=photos / "out")
    assert [item.path.name for item in inputs] == ["a.png", "b.jpg", "c.png", "e.JPG", "d.png"]


def test_predictions_of_another_checkpoint_are_not_mixed_in(tmp_path):
    inputs = [PredictionInput(tmp_path / "a.png", {})]
    Journal(tmp_path, {"checkpoint": "that could not be loaded"}, inputs)
    with Journal(tmp_path, {"checkpoint": "one"}, inputs) as journal:
        journal.write(inputs[0], {"text": "a wall", "score": 0.5})
    assert Journal(tmp_path, {"checkpoint": "one"}, inputs).pending == []
    with pytest.raises(UserError, match="predictions of another checkpoint, vocabulary, task or precision; set output"):
        Journal(tmp_path, {"checkpoint": "two"}, inputs)


def test_any_text_and_any_name_of_a_file_is_kept(tmp_path):
    names = ["line\u2028end.png", os.fsdecode(b"b\xe4r.png"), "tab\t.png"]
    inputs = [PredictionInput(tmp_path / name, {"text": "\u2028\x85 é"}) for name in names]
    with Journal(tmp_path, {}, inputs) as journal:
        for _, item in journal.pending:
            journal.write(item, {"text": "ü"})
    journal = Journal(tmp_path, {}, inputs)
    assert journal.pending == [] and journal.n_failed == 0


def test_a_duplicate_input_is_predicted_once_and_written_twice(tmp_path):
    inputs = [PredictionInput(tmp_path / name, {}) for name in ("a", "b", "a")]
    with Journal(tmp_path, {}, inputs) as journal:
        assert [number for number, _ in journal.pending] == [0, 1]
        for _, item in journal.pending:
            journal.write(item, {"error": "x"} if item.path.name == "a" else {"text": "y"})
    assert journal.n_failed == 2 and [r["image"][-1] for r in lines(journal.file)] == ["a", "b", "a"]


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "predictions.jsonl").write_text('{"image": "a.png", "text": "x"}\n{"image"\n')
    with pytest.raises(UserError, match="line 2 of .*predictions.jsonl is not a prediction"):
        Journal(tmp_path, {}, [PredictionInput(tmp_path / "a.png", {})])


def test_a_box_is_drawn_at_its_place(photos):
    item = PredictionInput(photos / "wide.png", {"text": "the corner"})
    drawn = draw(item, Image.new("RGB", (400, 200), "white"), {"boxes": [[100, 50, 300, 150]], "scores": [0.5]})
    assert drawn.getpixel((100, 100)) == (255, 0, 0) and drawn.getpixel((200, 100)) == (255, 255, 255)
    assert drawn.height > 200 and drawn.width == 400


def test_an_annotated_image_that_cannot_be_written_is_only_logged(photos, tmp_path, caplog):
    prediction = {"boxes": [[1, 2, 3, 4]], "scores": [0.5]}
    item = PredictionInput(photos / f"{'x' * 200}.png", {"text": "a"})
    image = Image.new("RGB", (40, 20))
    save_image(tmp_path / "pictures", 7, item, image, prediction)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == [f"000007_{'x' * 60}.jpg"]
    (tmp_path / "file").write_text("")
    save_image(tmp_path / "file", 7, item, image, prediction)
    assert "cannot be written" in caplog.text


TEXTS = ["the mug (left)", "5", "null", r"a\'b", "a\\", "costs ${5}", "x: [1,2]", "a=b, c", 'say "hi"', ""]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_taken_as_they_are_typed(text):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("predict", [*quote_values([f"text={text}"], ("text",)), "input=photos", "checkpoint=RUN"])
    assert config.text == text


def test_settings_of_a_task_are_those_of_the_checkpoint(model, tmp_path):
    arguments = [f"checkpoint={model}", "input=photos", "task=refcoco", "task.image_size=64"]
    process = run("predict.py", *arguments, folder=tmp_path, check=False)
    assert "task.image_size=64: predict.py uses the settings stored with the checkpoint" in process.stderr


def test_the_command_ofa_fails_without_a_prediction(model, photos, tmp_path):
    def predict(image):
        return main(["predict", str(model), str(photos / image), "--text", "a", "--output", str(tmp_path / image)])

    assert predict("c.png") == 1 and "error" in lines(tmp_path / "c.png/predictions.jsonl")[0]
    assert predict("a.png") == 0 and len(list((tmp_path / "a.png/pictures").iterdir())) == 1
    assert predict("nowhere.png") == 2
