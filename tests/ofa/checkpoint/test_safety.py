"""Nothing in a file is executed, and damage is named."""

import argparse
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from helpers import published
from helpers.fakes import Payload

from ofa.checkpoint import load_model
from ofa.errors import UserError


class BuiltNamespace:
    """A Namespace whose state, when it is set, would be made by a call."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (argparse.Namespace, (), {"__setstate__": Payload(self.path)})


class HoldingPath:
    """A Namespace with a value that is neither plain nor harmful."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (argparse.Namespace, (), {"data": Path(self.path)})


def test_a_file_that_may_not_be_read_is_not_called_incomplete(model, tmp_path, monkeypatch):
    file = published.write_bare(model, tmp_path / "weights.bin")

    def forbid(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(UserError, match=r"weights.bin cannot be read \(Permission denied\)$"):
        load_model(file)


@pytest.mark.parametrize("name", ["evil.pt", "evil.pkl", "evil.bin", "evil.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("trick", [Payload, BuiltNamespace])
def test_a_file_that_would_execute_is_refused_by_what_it_names(name, zipped, trick, tmp_path):
    trap = tmp_path / "executed"
    content = {"model": {"encoder.version": torch.ones(1)}, "args": trick(trap)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=rf"{name} was not read: it names \w+.mkdir, which could execute code"):
        load_model(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_is_refused(protocol, tmp_path):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"state_dict": Payload(tmp_path / "executed")}, protocol))
    with pytest.raises(UserError, match="evil.pkl was not read"):
        load_model(tmp_path / "evil.pkl")
    assert not (tmp_path / "executed").exists()


def test_options_may_hold_only_plain_values(model, tmp_path):
    torch.save({"model": published.fairseq_state(model), "args": HoldingPath("x")}, tmp_path / "path.pt")
    with pytest.raises(UserError, match=r"path.pt was not read: it names pathlib"):
        load_model(tmp_path / "path.pt")


def test_a_weights_file_of_a_folder_that_would_execute_is_refused(model, tmp_path):
    folder = published.write_folder(model, tmp_path / "folder")
    torch.save({"encoder.version": Payload(tmp_path / "executed")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin was not read: it names \w+.mkdir"):
        load_model(folder)
    assert not (tmp_path / "executed").exists()


def test_a_truncated_file_and_one_of_something_else_are_named(model, tmp_path):
    folder = published.write_folder(model, tmp_path / "folder", "model.safetensors")
    for file in (published.write_nested(model, tmp_path / "half.pt"), folder / "model.safetensors"):
        os.truncate(file, file.stat().st_size // 2)
        with pytest.raises(UserError, match=rf"{file.name} is not a readable checkpoint .* is it complete"):
            load_model(folder if file.parent == folder else file)
    for name, content in (("text.pt", b"Not a checkpoint"), ("empty.bin", b""), ("text.safetensors", b"no")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_model(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="list.pt holds a list, not a checkpoint"):
        load_model(tmp_path / "list.pt")


def test_the_file_may_be_deleted_once_it_is_loaded(model, tmp_path):
    folder = published.write_folder(model, tmp_path / "folder", "model.safetensors")
    loaded = load_model(folder)
    os.truncate(folder / "model.safetensors", 0)  # would end the process if the weights were still mapped
    shutil.rmtree(folder)
    assert torch.equal(loaded.decoder.pos_ln.weight, model.decoder.pos_ln.weight)
