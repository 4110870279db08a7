"""The commands `inspect` and `convert`."""

import json

import pytest
import torch
from helpers import published

from ofa.checkpoint import load, read_task
from ofa.cli import main
from ofa.config import OFAConfig
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer


@pytest.fixture
def averaged(model, tmp_path):
    average = published.fairseq_state(model) | {"decoder.layer_norm.bias": torch.full((32,), 0.5)}
    return published.write_nested(model, tmp_path / "ema.pt", extra_state={"ema": average})


@pytest.fixture
def vocabulary_folder(tmp_path):
    Tokenizer.demo().save(tmp_path / "vocabulary")
    return str(tmp_path / "vocabulary")


def inspect(path, capsys):
    """What is printed, as {name: value} of all tables, lines joined."""
    assert main(["inspect", str(path)]) == 0
    found, name = {}, None
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("│"):
            key, value = (cell.strip() for cell in line.strip("│").split("│"))
            name = key or name
            found[name] = f"{found.get(name, '')} {value}".strip()
    return found


def test_a_file_of_the_original_trainer_is_described(averaged, capsys):
    found = inspect(averaged, capsys)
    assert found["format"] == "file of the original trainer" and "visual-grounding" in found["task"]
    assert found["EMA weights"] == "present" and found["optimizer"] == "none"
    assert found["precision"].startswith("float32 (")
    assert found["renamed"].startswith("42: encoder.layers.0.ffn_layernorm.weight")
    assert found["size"] == "not a published one" and found["refused"] == "no"


def test_what_would_be_refused_is_shown(model, tmp_path, capsys):
    state = {name: tensor for name, tensor in published.hf_state(model).items() if "pos_ln" not in name}
    torch.save(state | {"decoder.adapter": torch.ones(1)}, tmp_path / "odd.bin")
    found = inspect(tmp_path / "odd.bin", capsys)
    assert found["missing"].startswith("8: encoder.pos_ln.weight") and found["unexpected"] == "1: decoder.adapter"
    assert found["refused"] == "yes" and found["format"] == "state dict"
    torch.save({"decoder.adapter": torch.ones(1)}, tmp_path / "other.bin")
    assert "does not hold the weights of an OFA model" in inspect(tmp_path / "other.bin", capsys)["refused"]


def test_a_published_size_has_a_name(tmp_path, capsys):
    with torch.device("meta"):
        model = OFAModel(OFAConfig.from_name("tiny"))
    torch.save({n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in model.state_dict().items()},
               tmp_path / "tiny.pt")  # fmt: skip
    found = inspect(tmp_path / "tiny.pt", capsys)
    assert (found["size"], found["parameters"]) == ("tiny", "33,488,336")


def test_averaged_weights_become_a_model_folder_in_half_precision(averaged, vocabulary_folder, tmp_path, capsys):
    arguments = ["--ema", "--tokenizer", vocabulary_folder, "--dtype", "bfloat16"]
    assert main(["convert", str(averaged), str(tmp_path / "out"), *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {tmp_path / 'out'}"
    loaded, tokenizer = load(tmp_path / "out")
    assert (loaded.decoder.layer_norm.bias == 0.5).all() and tokenizer.is_demo
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_list_of_answers_is_converted_with_the_model(model, vocabulary_folder, tmp_path, caplog):
    cfg = {"model": published.options(model.config), "task": {"_name": "vqa_gen"}}
    file = published.write_nested(model, tmp_path / "vqa.pt", cfg=cfg)
    (tmp_path / "answers.json").write_text(json.dumps(["yes", "no"]))
    arguments = ["convert", str(file), str(tmp_path / "out"), "--tokenizer", vocabulary_folder]
    assert main([*arguments, "--answers", str(tmp_path / "answers.json")]) == 0
    assert read_task(tmp_path / "out").answers == ("yes", "no") and "no list of answers" not in caplog.text
    assert main([*arguments[:2], str(tmp_path / "open"), *arguments[3:]]) == 0
    assert "vqa.pt has no list of answers: answers will be open-ended; --answers FILE" in caplog.text


def test_a_folder_with_files_is_only_written_into_by_force(averaged, vocabulary_folder, tmp_path, capsys):
    folder = tmp_path / "theirs"
    folder.mkdir()
    arguments = ["convert", str(averaged), str(folder), "--tokenizer", vocabulary_folder]
    (folder / "config.json").write_text("{}")
    assert main(arguments) == 2
    assert f"error: {folder} exists and is not an empty folder" in capsys.readouterr().err
    assert [(file.name, file.read_text()) for file in folder.iterdir()] == [("config.json", "{}")]
    assert main([*arguments, "--force"]) == 0 and load(folder)
    assert main([*arguments[:2], str(tmp_path / "vocabulary/vocab.json"), *arguments[3:]]) == 2


def test_errors_are_one_line(averaged, tmp_path, capsys):
    for arguments, message in (
        (["inspect", "nowhere"], "error: checkpoint nowhere does not exist"),
        (["convert", str(averaged), str(tmp_path / "out")], f"error: there is no vocabulary with {averaged}; give --t"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(message) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
