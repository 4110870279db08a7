"""Each raw data set becomes the rows that training expects."""

import base64
import json
import pickle

import pytest
from helpers.datasets import write_karpathy, write_refer, write_snli_ve, write_vqa
from helpers.fakes import Payload

from data.prepare.__main__ import main
from data.prepare.answers import answers_cell, normalise_answer


def convert(name, words, out, *more):
    assert main([name, *words, "--out", str(out), "--workers", "1", *more]) == 0


def rows_of(path):
    """The cells of each row; in the place of an image, of which the bytes must be those of a file, its name."""
    return [line.split("\t") for line in path.read_text().splitlines()]


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def test_refer_becomes_a_row_a_sentence_and_a_file_a_split(tmp_path):
    convert("refcoco", write_refer(tmp_path), tmp_path / "out")
    images = {i: encoded(tmp_path / f"coco/train2014/COCO_train2014_{i:012d}.jpg") for i in (7, 8)}
    assert rows_of(tmp_path / "out/refcoco_train.tsv") == [
        ["3", "7", "the cup", "1.1,2.2,31.4,22.2", images[7]],
        ["4", "7", "left one", "1.1,2.2,31.4,22.2", images[7]],
    ]
    assert rows_of(tmp_path / "out/refcoco_val.tsv") == [["5", "8", "dog", "0.0,0.0,60.0,40.0", images[8]]]
    assert not (tmp_path / "out/refcoco_testA.tsv").exists()


@pytest.mark.parametrize(
    ("name", "folder", "split_by"), [("refcocoplus", "refcoco+", "unc"), ("refcocog", "refcocog", "umd")]
)
def test_the_other_two_sets_have_their_own_folder_and_file_names(tmp_path, name, folder, split_by):
    convert(name, write_refer(tmp_path, folder, split_by), tmp_path)
    assert len(rows_of(tmp_path / f"{name}_train.tsv")) == 2


def test_a_malicious_pickle_of_references_does_nothing_and_is_refused(tmp_path, capsys):
    words = write_refer(tmp_path)
    (tmp_path / "refer/refcoco/refs(unc).p").write_bytes(pickle.dumps([Payload(tmp_path / "executed")]))
    assert main(["refcoco", *words, "--out", str(tmp_path)]) == 2
    assert "which could execute code" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_karpathys_split_becomes_both_stages(tmp_path):
    convert("caption", write_karpathy(tmp_path), tmp_path)
    image = encoded(tmp_path / "coco/train2014/COCO_train2014_000000000001.jpg")
    assert rows_of(tmp_path / "caption_stage1_train.tsv")[:2] == [
        ["1_0", "1", "a dog.", "", image],
        ["1_1", "1", "a dog & a cat", "", image],
    ]
    assert [row[:4] for row in rows_of(tmp_path / "caption_stage2_train.tsv")] == [
        ["1", "1", "a dog.&&a dog & a cat", ""],
        ["2", "2", "a bird", ""],
    ]
    assert [row[:3] for row in rows_of(tmp_path / "caption_val.tsv")] == [["3", "3", "red&&blue"]]
    assert [row[:3] for row in rows_of(tmp_path / "caption_test.tsv")] == [["4", "4", "green"]]


def test_snli_ve_keeps_the_pairs_with_a_label_even_where_errors_stop(tmp_path, capsys):
    convert("snli_ve", write_snli_ve(tmp_path), tmp_path, "--on-error", "stop")
    image = encoded(tmp_path / "flickr30k-images/99.jpg")
    first, second = rows_of(tmp_path / "snli_ve_dev.tsv")
    assert first == ["p1", "99", image, "Someone sits.", "Two men sit.", "entailment"]
    assert (second[0], second[5]) == ("p3", "neutral")
    assert "1 of 3 samples are left out (1 of them as expected)" in capsys.readouterr().out
    (left_out,) = map(json.loads, (tmp_path / "snli_ve_dev.rejected.jsonl").read_text().splitlines())
    assert left_out == {"where": "line 2 of snli_ve_dev.jsonl", "reason": "people did not agree on a label"}


def test_vqa_trains_on_listed_answers_is_scored_by_all_and_tested_by_none(tmp_path):
    convert("vqa", write_vqa(tmp_path), tmp_path)
    assert json.loads((tmp_path / "answers.json").read_text()) == {"yes": 0}
    image = encoded(tmp_path / "coco/train2014/COCO_train2014_000000000005.jpg")
    assert rows_of(tmp_path / "vqa_train.tsv") == [
        ["1", "5", "Is it 1?", "1.0|!+yes", "", image],
        ["2", "5", "Is it 2?", "1.0|!+yes", "", image],
    ]
    assert [row[3] for row in rows_of(tmp_path / "vqa_val.tsv")] == [
        "1.0|!+yes&&0.6|!+no&&0.3|!+maybe",
        "1.0|!+yes",
        "1.0|!+2",
    ]
    assert [row[3] for row in rows_of(tmp_path / "vqa_test.tsv")] == ["", "", ""]


def test_objects_of_a_file_follow_their_question(tmp_path):
    (tmp_path / "objects.json").write_text('{"5": ["dog", "red ball"]}')
    convert("vqa", write_vqa(tmp_path), tmp_path, "--objects", str(tmp_path / "objects.json"), "--splits", "val")
    assert {row[4] for row in rows_of(tmp_path / "vqa_val.tsv")} == {"dog&&red ball"}
    assert not (tmp_path / "vqa_train.tsv").exists() and not (tmp_path / "answers.json").exists()


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        ("Yes.", "yes"),
        ("The dog!", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("it's", "it's"),
        ("1,000", "1000"),
        ("2:50 p.m.", "2:50 pm"),
        ("3.5", "3.5"),
        ("black/white", "black white"),
        ("a", ""),
    ],
)
def test_answers_are_written_alike(raw, normalised):
    assert normalise_answer(raw) == normalised


def test_three_of_ten_make_an_answer_nearly_right_and_a_single_answer_is_right():
    assert answers_cell(["red"] * 2 + ["blue"] * 3 + [""] * 5) == "0.9|!+blue&&0.6|!+red"
    assert answers_cell(["red"]) == "1.0|!+red"


@pytest.mark.parametrize(
    ("name", "write", "missing", "complaint"),
    [
        ("refcoco", write_refer, "refer/refcoco/refs(unc).p", "--split-by chooses one of those there are: none"),
        ("refcoco", write_refer, "refer/refcoco/instances.json", "it should be the boxes of REFER"),
        ("caption", write_karpathy, "dataset_coco.json", "Karpathy's dataset_coco.json"),
        ("snli_ve", write_snli_ve, "snli_ve_test.jsonl", "it should be a file of SNLI-VE"),
        ("vqa", write_vqa, "v2_mscoco_train2014_annotations.json", "a file of visualqa.org"),
    ],
)
def test_a_missing_source_is_an_error_that_names_the_expected_file(tmp_path, capsys, name, write, missing, complaint):
    words = write(tmp_path)
    (tmp_path / missing).unlink()
    assert main([name, *words, "--out", str(tmp_path), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert str(tmp_path / missing) in error and complaint in error


@pytest.mark.parametrize(
    ("name", "write", "file", "content", "complaint"),
    [
        ("refcoco", write_refer, "refer/refcoco/instances.json", "{", "is not JSON"),
        ("refcoco", write_refer, "refer/refcoco/instances.json", "{}", "the layout of COCO's instances.json"),
        ("caption", write_karpathy, "dataset_coco.json", "[]", "holds a list, not Karpathy's split"),
        ("caption", write_karpathy, "dataset_coco.json", '{"images": [{}]}', "names no split"),
        ("vqa", write_vqa, "v2_mscoco_train2014_annotations.json", '{"annotations": [{}]}', "does not have the layout"),
        ("vqa", write_vqa, "v2_OpenEnded_mscoco_train2014_questions.json", "[]", "holds a list"),
    ],
)
def test_another_layout_is_an_error_that_names_the_file(tmp_path, capsys, name, write, file, content, complaint):
    words = write(tmp_path)
    (tmp_path / file).write_text(content)
    assert main([name, *words, "--out", str(tmp_path), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(tmp_path / file) in error and complaint in error


def test_a_broken_reference_is_left_out_by_name(tmp_path):
    words = write_refer(tmp_path)
    path = tmp_path / "refer/refcoco/refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    del refs[0]["ann_id"]
    path.write_bytes(pickle.dumps([*refs, {**refs[0], "ann_id": 10}]))
    convert("refcoco", words, tmp_path)
    assert len(rows_of(tmp_path / "refcoco_train.tsv")) == 2
    (left_out,) = map(json.loads, (tmp_path / "refcoco_train.rejected.jsonl").read_text().splitlines())
    assert left_out["where"] == "reference 0 of refs(unc).p" and "ann_id" in left_out["reason"]
