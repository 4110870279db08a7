"""Generated weights and recorded outputs of the published model (tests/goldens/README.md)."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from data.batch import collate
from ofa.config import OFAConfig
from ofa.model import OFAModel

FOLDER = Path(__file__).parents[1] / "goldens"
# fairseq's names of modules: the names in HF-style weights and in this project.
FAIRSEQ_NAMES = {
    "encoder_attn_layer_norm": "cross_attn_layer_norm", "encoder_attn": "cross_attn",
    "cross_attn_ln": "cross_attn_mid_layer_norm", "self_attn_ln": "self_attn_mid_layer_norm",
    "attn_ln": "self_attn_mid_layer_norm", "ffn_layernorm": "ffn_layer_norm",
}  # fmt: skip
HF_COLUMNS = [
    *range(8), 100, 1000, 20000, 50263, 50264, *range(50265, 50273), *range(58449, 58465), *range(59449, 59457)
]  # fmt: skip
TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")  # the same matrix as the encoder's


def load_json(name):
    return json.loads((FOLDER / name).read_text())


def load_arrays(name):
    return np.load(FOLDER / name)


def load_tensors(name, prefix=""):
    """The tensors of a file whose names start with the prefix, by the rest of their names."""
    arrays = load_arrays(name)
    return {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(prefix)}


def hf_case(name):
    """The model of a case hf_small or hf_tiny, its description, and its recorded tensors."""
    recorded = load_json(f"{name}.json")
    model = OFAModel(OFAConfig.from_dict(recorded["config"])).eval()
    fill_hf(model, recorded["seed"])
    return model, recorded, load_tensors(f"{name}.npz")


def fairseq_model(profile, seed=0):
    """A tiny model with the weights of the fairseq_* goldens."""
    model = OFAModel(OFAConfig.from_name("tiny")).eval()
    fill_fairseq(model, profile, seed)
    return model


def generator(key, seed=0):
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()) + seed))


def fairseq_name(name):
    """This project's state-dict name -> the fairseq name."""
    parts = name.split(".")
    for theirs, ours in FAIRSEQ_NAMES.items():
        if theirs == "self_attn_ln" and parts[0] == "encoder":
            continue  # the encoder's is attn_ln
        if ours in parts:
            parts[parts.index(ours)] = theirs
            break
    return ".".join(parts)


def fill_hf(model, seed=0):
    """Weights of the hf_* goldens."""
    with torch.no_grad():
        for name, tensor in unique_entries(model):
            n = generator(name, seed).standard_normal(tensor.shape).astype(np.float32)
            tensor.copy_(torch.from_numpy(_scaled(name, n, "strong")))
            if "embed_tokens" in name:
                tensor[2] *= 4


def fill_fairseq(model, profile, seed=0):
    """Weights of the fairseq_* goldens, profile brief or strong."""
    with torch.no_grad():
        for name, tensor in unique_entries(model):
            theirs = fairseq_name(name)
            n = generator(theirs, seed).standard_normal(tensor.shape).astype(np.float32)
            tensor.copy_(torch.from_numpy(_scaled(theirs, n, profile)))
        if profile == "strong":
            noise = generator("decoder.layer_norm.bias", seed).standard_normal(model.config.d_model)
            bias = 0.5 * torch.from_numpy(noise.astype(np.float32))
            model.decoder.layer_norm.bias.copy_(bias)
            model.encoder.embed_tokens.weight[2] = (4.4 / bias.double().square().sum() * bias.double()).float()


def unique_entries(model):
    """Floating-point entries of the state dict, with each tied matrix once, under the encoder's name."""
    return [(n, t) for n, t in model.state_dict().items() if t.is_floating_point() and n not in TIED]


def fairseq_images(case, inputs):
    """Images [B, 3, height, width] of a fairseq case, checked against the recorded pixels; None for text."""
    size = {"main": (64, 96), "sq128": (128, 128), "text": None}[case]
    if size is None:
        return None
    batch = len(inputs["src_tokens"])
    images = torch.from_numpy(generator(f"inputs/{case}").uniform(-1, 1, (batch, 3, *size)).astype(np.float32))
    torch.testing.assert_close(images[:, :, ::8, ::8], inputs["patch_images_8"])
    return images


def fairseq_batch(case, inputs):
    """The model's arguments of a fairseq case, with images checked against the recorded pixels."""
    ids, images = inputs["src_tokens"].long(), fairseq_images(case, inputs)
    return {"input_ids": ids, "patch_images": images, "patch_masks": inputs.get("patch_masks")}


def _scaled(name, n, profile):
    f = np.float32
    if name.endswith("running_var"):
        return f(1) + f(0.1) * np.abs(n)
    if name.endswith("running_mean"):
        return f(0.02) * n
    if name.endswith("c_attn"):
        return f(1) + f(0.1) * n
    if "rel_pos_table_list" in name:
        return f(0.1) * n
    if n.ndim == 1:
        return f(1) + f(0.02) * n if name.endswith("weight") else f(0.02) * n
    if profile == "brief":
        return f(0.02) * n
    if n.ndim == 4:
        return n * f(np.sqrt(2 / np.prod(n.shape[1:])))
    if "embed_tokens" in name:
        return n / f(np.sqrt(n.shape[-1]))
    if any(part in name for part in ("embed_positions", "embed_image_positions", "type_embedding")):
        return f(0.5) * n
    return f(2) * n / f(np.sqrt(n.shape[-1]))


def assert_collated(samples, recorded):
    """Compares the tensors of a batch with the recorded ones; returns the batch."""
    batch = collate(samples)
    assert batch.input_ids.tolist() == recorded["batch_net_input"]["src_tokens"]
    assert batch.decoder_input_ids.tolist() == recorded["batch_net_input"]["prev_output_tokens"]
    assert batch.target.tolist() == recorded["batch"]["target"]
    return batch
