"""A user's own tables: the field of each column, boxes in two formats, resized images."""

import base64
import io
import json

import numpy as np
import pytest
from helpers.datasets import write_jpeg, write_photos
from PIL import Image

from data.prepare.__main__ import main
from ofa.answers import read_answers


def convert(tmp_path, text, *words, check=True, encoding="utf-8"):
    """The cells of each row of a CSV about the photo a.jpg of 60 x 40 pixels."""
    write_jpeg(tmp_path / "a.jpg")
    (tmp_path / "own.csv").write_text(text, encoding=encoding)
    status = main(["csv", str(tmp_path / "own.csv"), "--out", str(tmp_path / "own.tsv"), "--workers", "1", *words])
    if check:
        assert status == 0
        return [line.split("\t") for line in (tmp_path / "own.tsv").read_text(encoding="utf-8").splitlines()]
    return status


def reasons(tmp_path):
    return [json.loads(line)["reason"] for line in (tmp_path / "own.rejected.jsonl").read_text().splitlines()]


def image_of(cell):
    return Image.open(io.BytesIO(base64.b64decode(cell)))


REFCOCO = ("--task", "refcoco")


def test_a_row_has_its_number_as_id_and_the_image_byte_for_byte(tmp_path):
    rows = convert(tmp_path, "image,text,x0,y0,x1,y1\na.jpg,the tasse,1,2,30,40\n", *REFCOCO)
    encoded = base64.b64encode((tmp_path / "a.jpg").read_bytes()).decode()
    assert rows == [["1", "a.jpg", "the tasse", "1.0,2.0,30.0,40.0", encoded]]


def test_a_row_without_id_among_others_has_its_number(tmp_path):
    text = "image,caption,uniq_id,image_id\na.jpg,one,x,y\na.jpg,two,,\n"
    rows = convert(tmp_path, text, "--task", "caption")
    assert [row[:3] for row in rows] == [["x", "y", "one"], ["2", "a.jpg", "two"]]


def test_fields_are_mapped_and_spreadsheets_marks_blank_lines_and_quoted_newlines_do_no_harm(tmp_path):
    text = 'file,wörter,bbox,id\n\na.jpg,"eine\nTasse\tTee","[1, 2, 10, 20]",x\n'
    words = ("--map", "image=file", "text=wörter", "box=bbox", "uniq_id=id", "--box-format", "xywh")
    (row,) = convert(tmp_path, text, *REFCOCO, *words, encoding="utf-8-sig")
    assert row[:4] == ["x", "a.jpg", "eine Tasse Tee", "1.0,2.0,11.0,22.0"]


@pytest.mark.parametrize(
    ("task", "text", "cells"),
    [
        ("caption", "image\na.jpg\n", {2: ""}),
        ("caption", "image,caption\na.jpg,A photo\n", {0: "1", 1: "a.jpg", 2: "A photo", 3: ""}),
        ("snli_ve", "image,hypothesis,label\na.jpg,It is,neutral\n", {3: "It is", 4: "", 5: "neutral"}),
        ("vqa", "image,question,answers\na.jpg,What?,red cup\n", {2: "What?", 3: "1.0|!+red cup"}),
        ("vqa", "image,question\na.jpg,What?\n", {2: "What?", 3: ""}),
        ("vqa", "image,question,answers\na.jpg,What?,0.6|!+red&&0.3|!+The Blue\n", {3: "0.6|!+red&&0.3|!+The Blue"}),
    ],
)
def test_columns_without_a_field_are_empty(tmp_path, task, text, cells):
    (row,) = convert(tmp_path, text, "--task", task)
    assert {number: row[number] for number in cells} == cells
    assert (tmp_path / "own.answers.json").exists() == ("answers" in text)


@pytest.mark.parametrize(
    ("given", "as_it_is", "normalised"),
    [
        ("red&& Blue ", "1.0|!+red&&1.0|!+Blue", "1.0|!+red&&1.0|!+blue"),
        ("C++", "1.0|!+C++", "1.0|!+c"),
        ("none", "1.0|!+none", "1.0|!+0"),
        ("0", "1.0|!+0", "1.0|!+0"),
        ("A", "1.0|!+A", None),
        ("0.6|!+The Blue&&0.3|!+blue", "0.6|!+The Blue&&0.3|!+blue", "0.9|!+blue"),
        ("2|!+red", None, None),
    ],
)
def test_answers_are_written_as_they_are_or_as_vqa_does(tmp_path, given, as_it_is, normalised):
    for cell, words in ((as_it_is, ()), (normalised, ("--normalise-answers",))):
        folder = tmp_path / str(len(words))
        folder.mkdir()
        text = f"image,question,answers\na.jpg,What?,yes\na.jpg,What?,{given}\n"
        rows = convert(folder, text, "--task", "vqa", *words)
        assert [row[3] for row in rows] == ["1.0|!+yes", *([cell] if cell else [])]


@pytest.mark.parametrize(
    ("task", "text", "reason"),
    [
        ("refcoco", "a.jpg,cup,1,2,1,4", "has no area"),
        ("refcoco", "a.jpg,cup,70,2,80,4", "outside its image of 60 x 40"),
        ("refcoco", "a.jpg,cup,1,2,x,4", "not four numbers"),
        ("refcoco", "a.jpg, ?! ,1,2,3,4", "the text is empty"),
        ("refcoco", "b.jpg,cup,1,2,3,4", "b.jpg cannot be read (No such file or directory)"),
        ("refcoco", ",cup,1,2,3,4", "'image' holds no image"),
        ("refcoco", "own.csv,cup,1,2,3,4", "not an image of a known format"),
        ("refcoco", "a.jpg,cup,1,2,3", "it has 5 fields, the header has 6"),
        ("snli_ve", "a.jpg,It is,neutrall", "did you mean 'neutral'"),
        ("vqa", "a.jpg,What?,2|!+red", "not of the form 0.6|!+yes"),
        ("vqa", "a.jpg,What?,", "the question has no answer"),
        ("caption", "a.jpg,...", "the caption is empty"),
    ],
)
def test_a_row_that_training_would_refuse_is_left_out_with_the_reason(tmp_path, task, text, reason):
    fields, good = {
        "refcoco": ("image,text,x0,y0,x1,y1", "a.jpg,cup,1,2,3,4"),
        "snli_ve": ("image,hypothesis,label", "a.jpg,It is,neutral"),
        "vqa": ("image,question,answers", "a.jpg,What?,red"),
        "caption": ("image,caption", "a.jpg,good"),
    }[task]
    assert len(convert(tmp_path, f"{fields}\n{good}\n{text}\n", "--task", task)) == 1
    (found,) = reasons(tmp_path)
    assert reason in found


@pytest.mark.parametrize(
    ("text", "words", "complaint"),
    [
        ("image,texte,box\n", REFCOCO, "has no field 'text', which refcoco needs, only image, texte, box"),
        ("image,text\n", REFCOCO, "has no field 'box'"),
        ("image,text,box\n", (*REFCOCO, "--map", "txt=text"), "--map txt=text does not begin with a column"),
        ("image,text,box\n", (*REFCOCO, "--map", "text=txt"), "has no field 'txt', only image, text, box; did you"),
        ("", REFCOCO, "is empty"),
        ("image,text,text\n", REFCOCO, "has two fields 'text' in its header"),
        ("image,caption\n", ("--task", "caption"), "the source has no sample for it"),
        ('image,caption\na.jpg,"open\n', ("--task", "caption"), "is not CSV"),
        ("image,caption\na.jpg,Tür\n", ("--task", "caption"), "is not UTF-8"),
    ],
)
def test_a_table_that_does_not_fit_is_a_clear_error(tmp_path, capsys, text, words, complaint):
    assert convert(tmp_path, text, *words, check=False, encoding="latin-1") == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_questions_get_the_list_of_their_answers(tmp_path, capsys):
    answers = ("no", "yes", "0.3|!+no&&1.0|!+maybe", "yes")
    rows = "".join(f"a.jpg,Is it?,{answer}\n" for answer in answers)
    convert(tmp_path, f"image,question,answers\n{rows}b.jpg,Is it?,missing\n", "--task", "vqa")
    listed = tmp_path / "own.answers.json"
    assert read_answers(listed) == ["yes", "maybe", "no"]
    assert f"task.answer_list={listed} has the 3 answers" in capsys.readouterr().out


def test_a_larger_image_is_resized_and_its_box_with_it(tmp_path):
    path = write_photos(tmp_path, rows=1, size=(100, 50))
    words = ["csv", str(path), *REFCOCO, "--out", str(tmp_path / "own.tsv"), "--workers", "1", "--max-side", "50"]
    assert main(words) == 0
    *_, box, image = (tmp_path / "own.tsv").read_text().split("\t")
    assert image_of(image).size == (50, 25) and image_of(image).format == "JPEG"
    assert box == "0.0,1.0,10.0,15.0"


def test_an_image_that_is_small_enough_is_kept_byte_for_byte(tmp_path):
    rows = convert(tmp_path, "image,caption\na.jpg,cup\n", "--task", "caption", "--max-side", "60")
    assert base64.b64decode(rows[0][4]) == (tmp_path / "a.jpg").read_bytes()


def test_quality_is_that_of_resized_images(tmp_path):
    sizes = []
    for quality in ("20", "95"):
        (tmp_path / quality).mkdir()
        words = ("--task", "caption", "--max-side", "32", "--quality", quality)
        sizes.append(len(convert(tmp_path / quality, "image,caption\na.jpg,cup\n", *words)[0][4]))
    assert sizes[0] < 0.6 * sizes[1]


def test_a_transparent_image_can_be_resized(tmp_path):
    Image.fromarray(np.full((40, 60, 4), 128, np.uint8)).save(tmp_path / "b.png")
    rows = convert(tmp_path, "image,caption\nb.png,cup\n", "--task", "caption", "--max-side", "30")
    assert image_of(rows[0][4]).mode == "RGB"
