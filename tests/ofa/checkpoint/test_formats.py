"""Every published format gives the published model's logits (tests/goldens/README.md)."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import published
from helpers.golden import HF_COLUMNS, hf_case

from ofa import pipeline
from ofa.checkpoint import load_model, load_weights, read_config
from ofa.checkpoint.architecture import our_name
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer

REAL_FILES = Path(os.environ.get("OFA_GOLDEN_CHECKPOINTS", Path(__file__).parents[4] / "shared/goldens/checkpoints"))
CAPTIONING = {"framework": "pytorch", "task": "image-captioning", "model": {"type": "ofa"}}
FORMATS = {
    "nested configuration": (published.write_nested, "checkpoint.pt"),
    "only options": (published.write_args, "checkpoint_best.pt"),
    "without zip": (published.write_legacy_zipless, "old.pt"),
    "bare": (published.write_bare, "gs10000.pkl"),
    "wrapped": (published.write_wrapped, "weights.bin"),
    "bin folder": (published.write_folder, "folder"),
    "safetensors folder": (partial(published.write_folder, weights="model.safetensors"), "folder"),
    "bin folder in parts": (partial(published.write_folder, parts=3), "folder"),
    "safetensors folder in parts": (partial(published.write_folder, weights="model.safetensors", parts=3), "folder"),
    "ModelScope folder": (partial(published.write_modelscope, description=CAPTIONING), "folder"),
}


@pytest.fixture(scope="module")
def golden():
    return hf_case("hf_small")


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_gives_the_recorded_logits(golden, format, tmp_path):
    model, _, a = golden
    write, name = FORMATS[format]
    loaded = load_model(write(model, tmp_path / name))
    with torch.no_grad():
        logits = loaded(a["in/input_ids"], a["in/patch_images"], a["in/patch_masks"], a["in/prev"]).logits
    valid = a["in/prev"] != 1
    torch.testing.assert_close(logits[..., HF_COLUMNS][valid], a["out/logits_cols"][valid], rtol=1e-4, atol=1e-4)
    assert loaded.decoder.output_projection.weight is loaded.encoder.embed_tokens.weight
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters()) and not loaded.training


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_has_the_architecture(format, tmp_path):
    model = OFAModel(published.small_config(dropout=0.2))
    write, name = FORMATS[format]
    config = read_config(write(model, tmp_path / name))
    if format in ("bare", "wrapped"):  # no shape determines these
        config = OFAConfig.from_dict({**config.to_dict(), "dropout": 0.2, "code_image_size": 32})
    assert config == model.config


def test_half_precision_becomes_float32(tmp_path):
    model = OFAModel(published.small_config())
    halves = {n: t.half() if t.is_floating_point() else t for n, t in published.fairseq_state(model).items()}
    state = load_model(published.write_nested(model, tmp_path / "half.pt", halves)).state_dict()
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == tensor.dtype
        torch.testing.assert_close(state[name], tensor.half().float() if tensor.is_floating_point() else tensor)


@pytest.mark.parametrize("places", [("ema",), ("ema", "ema_fp32_params")])
def test_averaged_weights_are_loaded_on_request(places, tmp_path, caplog):
    model = OFAModel(published.small_config())
    averages = {"ema": 0.25, "ema_fp32_params": 0.5}
    extra = published.meters()
    for place in places:
        extra[place] = published.fairseq_state(model)
        extra[place]["decoder.layer_norm.bias"] = torch.full((32,), averages[place])
    file = published.write_nested(model, tmp_path / "ema.pt", extra_state=extra)
    with pytest.raises(UserError, match="plain.pt holds no EMA weights"):
        load_model(published.write_args(model, tmp_path / "plain.pt"), ema=True)
    with caplog.at_level("INFO"):
        assert load_model(file).decoder.layer_norm.bias.max() == 0
    assert f"convert {file} FOLDER --ema" in caplog.text
    assert (load_model(file, ema=True).decoder.layer_norm.bias == averages[places[-1]]).all()
    load_weights(model, file, ema=True)
    assert (model.decoder.layer_norm.bias == averages[places[-1]]).all()
    Tokenizer.demo().save(tmp_path)
    cfg = {"model": published.options(model.config), "task": {"_name": "caption", "patch_image_size": 32}}
    file = published.write_nested(model, tmp_path / "ema.pt", cfg=cfg, extra_state=extra)
    pipe = pipeline("image-captioning", file, ema=True)
    assert (pipe.model.decoder.layer_norm.bias == averages[places[-1]]).all()


@pytest.mark.parametrize("name", ["micro_release_like", "micro_legacy_args"])
def test_real_files_of_the_original_trainer_give_the_listed_values(name):
    if not REAL_FILES.is_dir():
        pytest.skip(f"no files of the original trainer at {REAL_FILES}; set OFA_GOLDEN_CHECKPOINTS to their folder")
    listed = json.loads((REAL_FILES / f"{name}.json").read_text())
    state = load_model(REAL_FILES / f"{name}.pt").state_dict()
    ours = {our_name(theirs): theirs for theirs in listed["model_first3"]}
    ours.pop(None)
    assert ours.keys() == {name for name, tensor in state.items() if tensor.is_floating_point()}
    for name, theirs in ours.items():
        first = torch.tensor(listed["model_first3"][theirs])
        torch.testing.assert_close(state[name].flatten()[:3], first, rtol=1e-6, atol=0)
        assert state[name].double().norm().item() == pytest.approx(listed["model_l2"][theirs], rel=1e-6)
