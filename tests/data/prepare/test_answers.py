import json
import pickle

import pytest
from helpers.fakes import Payload
from helpers.runs import run

from data.prepare.__main__ import main
from ofa.answers import read_answers


def write(tmp_path, content):
    path = tmp_path / "trainval_ans2label.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def test_the_command_writes_the_answers_in_the_order_of_their_labels(tmp_path):
    source, target = write(tmp_path, {"no": 1, "yes": 0, "café": 2}), tmp_path / "answers.json"
    done = run("-m", "data.prepare", "answers", source, target, folder=tmp_path)
    assert done.stdout == f"3 answers written to {target}\n"
    assert list(json.loads(target.read_text(encoding="utf-8")).items()) == [("yes", 0), ("no", 1), ("café", 2)]
    assert read_answers(target) == ["yes", "no", "café"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (["yes"], "holds a list"),
        ({"yes": 0, "no": 2}, "none has 1"),
        ({"yes": "0"}, "expected"),
        ({}, "is empty"),
        (Payload("executed"), "could execute code"),
    ],
)
def test_another_pickle_is_an_error_of_one_line(tmp_path, content, complaint, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["answers", str(write(tmp_path, content)), "answers.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and complaint in error and error.count("\n") == 1
    assert "trainval_ans2label.pkl" in error
    assert [path.name for path in tmp_path.iterdir()] == ["trainval_ans2label.pkl"]


def test_files_that_cannot_be_read_or_written_are_errors_of_one_line(tmp_path, capsys):
    assert main(["answers", str(tmp_path / "none.pkl"), str(tmp_path / "answers.json")]) == 2
    assert main(["answers", str(write(tmp_path, {"yes": 0})), str(tmp_path / "none" / "answers.json")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "none.pkl cannot be read" in errors[0] and "answers.json cannot be written" in errors[1]
