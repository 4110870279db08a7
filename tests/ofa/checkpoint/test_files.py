"""The files of a path or a Hugging Face id; no test needs a network."""

import json

import huggingface_hub.constants
import pytest
import torch
from helpers import published

from ofa.checkpoint import find, kept_tokenizer, load, load_model, tokenizer_folder, weight_files
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer


def test_a_model_of_the_hub_is_read_from_the_cache_without_a_network(model, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--OFA-Sys--ofa-small"
    snapshot = repository / "snapshots/0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123")
    published.write_folder(model, snapshot)
    Tokenizer.demo().save(snapshot)
    loaded, tokenizer = load("OFA-Sys/ofa-small")
    assert torch.equal(loaded.encoder.pos_ln.weight, model.encoder.pos_ln.weight) and tokenizer.is_demo
    assert find("OFA-Sys/ofa-small") == snapshot
    with pytest.raises(UserError, match="OFA-Sys/ofa-none is not a local file or folder and could not be downloaded"):
        load_model("OFA-Sys/ofa-none")


@pytest.mark.parametrize("path", ["nowhere", "models/none.pt", "/no/such", "./a/b", "a/b/c"])
def test_a_missing_path_is_not_searched_on_hugging_face(path, monkeypatch):
    monkeypatch.setattr("ofa.checkpoint.files.snapshot_download", None)
    with pytest.raises(UserError, match=f"checkpoint {path.removeprefix('./')} does not exist"):
        find(path)


def test_a_run_means_its_exported_model_and_else_its_best_checkpoint(model, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").touch()
    Tokenizer.demo().save(tmp_path / "tokenizer")
    assert find(tmp_path) == tmp_path / "checkpoints/best.ckpt"
    assert kept_tokenizer(tmp_path / "checkpoints/best.ckpt") == tmp_path / "tokenizer"
    published.write_folder(model, tmp_path / "model")
    assert find(tmp_path) == tmp_path / "model"
    assert tokenizer_folder(tmp_path) == tmp_path / "tokenizer"


def test_only_a_file_in_a_model_folder_has_a_vocabulary(model, tmp_path):
    file = published.write_bare(model, tmp_path / "weights.bin")
    assert kept_tokenizer(file) is None
    with pytest.raises(UserError, match="no vocabulary with .*weights.bin; set tokenizer="):
        load(file)
    Tokenizer.demo().save(tmp_path)
    assert tokenizer_folder(file) == tmp_path


def test_a_part_that_is_missing_or_elsewhere_is_named(model, tmp_path):
    folder = published.write_folder(model, tmp_path / "folder", parts=2)
    assert len(weight_files(folder)) == 2
    (folder / "pytorch_model-00002-of-00002.bin").rename(tmp_path / "elsewhere.bin")
    with pytest.raises(UserError, match="names pytorch_model-00002-of-00002.bin, which is not in its folder"):
        load_model(folder)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.bin"}}))
    with pytest.raises(UserError, match="names ../elsewhere.bin, which is not in its folder"):
        load_model(folder)
    index.write_text("[]")
    with pytest.raises(UserError, match="index.json does not hold a JSON object"):
        load_model(folder)
    index.unlink()
    with pytest.raises(UserError, match="folder holds config.json but no model.safetensors"):
        load_model(folder)
