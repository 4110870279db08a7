import json

import pytest
from helpers.datasets import make_row

from data.source import RowError
from data.teacher_answers import AnsweredRows, TeacherAnswers, read_teacher_answers
from ofa.errors import UserError


def upper(answer):
    if not isinstance(answer, str):
        raise ValueError(f"the answer {answer} is not text")
    return answer.upper()


def prediction(uniq_id="7", split="train", answer="yes", **more):
    return {"split": split, "uniq_id": uniq_id, "answer": answer, "score": -0.5, **more}


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "predictions.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    return write


def read(path):
    return read_teacher_answers(path, "answer", "label", upper)


def test_the_answers_to_the_training_split_are_read_in_the_columns_format(write):
    answers = read(write(prediction("a"), prediction("a", "val", "no"), prediction("b", answer="no")))
    assert answers.column == "label" and answers.by_id == {"a": "YES", "b": "NO"}


def test_the_first_of_several_answers_to_one_id_is_used_with_a_warning(write, caplog):
    assert read(write(prediction("a"), prediction("a"))).by_id == {"a": "YES"}
    assert "other answers" not in caplog.text
    assert read(write(prediction("a"), prediction("a", answer="no"))).by_id == {"a": "YES"}
    assert "has several answers to each of 1 ids; the first one is used" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"split": "train", "uniq', "it is not JSON"),
        ("", "it is not JSON"),
        ("[1]", "it is not a prediction with a split"),
        ({"uniq_id": "7", "answer": "yes"}, "it is not a prediction with a split"),
        (prediction(uniq_id=7), "its uniq_id is missing or not text"),
        ({"split": "train", "uniq_id": "7", "caption": "yes"}, "it has no field answer, the answer of this task"),
        (prediction(answer=5), "the answer 5 is not text"),
    ],
)
def test_a_malformed_line_is_named_with_the_remedy(write, line, message):
    path = write(prediction("a"), line)
    with pytest.raises(
        RowError,
        match=f"^line 2 of {path}: {message}.*; correct it, write [^\n]*split=train`, or set data.on_error=skip$",
    ):
        read(path)


def test_malformed_lines_are_skipped_and_counted_where_broken_rows_are_skipped(write, caplog):
    path = write(prediction("a"), prediction("b", answer=5), "", prediction("c", answer="no"))
    answers = read_teacher_answers(path, "answer", "label", upper, skip_broken=True)
    assert answers.by_id == {"a": "YES", "c": "NO"}
    assert f"2 of its lines are malformed and skipped with their rows; the first: line 2 of {path}" in caplog.text
    with pytest.raises(UserError, match="has no answers to split train"):
        read_teacher_answers(write(""), "answer", "label", upper, skip_broken=True)


def test_bytes_that_are_not_text_are_named_by_their_line(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(json.dumps(prediction("a")).encode() + b'\n{"split": "\xff"}\n')
    with pytest.raises(RowError, match="line 2 of .*: it is not JSON"):
        read(path)


def test_a_missing_file_a_folder_and_a_file_of_other_splits_are_refused(write, tmp_path):
    with pytest.raises(UserError, match="distill.predictions=.*none.jsonl cannot be read .*evaluate.py"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(UserError, match="has no answers to split train; write them with .*split=train"):
        read(write(prediction(split="val")))


def test_a_rows_own_answer_is_replaced_and_its_errors_name_both_files(tmp_path):
    answers = TeacherAnswers(tmp_path / "predictions.jsonl", "label", {"7": "YES"})
    rows = AnsweredRows([make_row(label="no"), make_row(uniq_id="8", label="no")], answers)
    assert len(rows) == 2
    assert rows[0].values["label"] == "YES" and rows[0].values["uniq_id"] == "7"
    assert str(rows[0].error("the label is odd")).startswith(
        f"line 3 of train.tsv: the label is odd, where label is the teacher's, from {answers.path}; correct or remove"
    )
    with pytest.raises(RowError, match="^line 3 of train.tsv: .*predictions.jsonl has no answer to '8' of split "):
        rows[1]
