"""Checkpoints of a given model in the published formats."""

import json
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import save_file

from helpers.golden import TIED, fairseq_name
from ofa.config import OFAConfig


def tables(config):
    """The computed tables in published files."""
    cells = config.image_bucket_size**2 + 1
    return {
        f"{stack}.{name}": torch.zeros(side, side, dtype=torch.long)
        for stack in ("encoder", "decoder")
        for name, side in {"token_rp_bucket": 1024, "image_rp_bucket": cells}.items()
    } | {"decoder.image_position_idx": torch.zeros(1026, dtype=torch.long)}


def hf_state(model):
    return {**model.state_dict(), **tables(model.config)}


def fairseq_state(model):
    state = OrderedDict((fairseq_name(name), tensor) for name, tensor in model.state_dict().items())
    state |= tables(model.config) | {"encoder.version": torch.tensor([3.0]), "decoder.version": torch.tensor([3.0])}
    return state


def options(config, **changes):
    """The original trainer's options of a model and some of its other options."""
    theirs = {
        "encoder_embed_dim": config.d_model, "encoder_ffn_embed_dim": config.encoder_ffn_dim,
        "encoder_layers": config.encoder_layers, "encoder_attention_heads": config.encoder_attention_heads,
        "decoder_embed_dim": config.d_model, "decoder_ffn_embed_dim": config.decoder_ffn_dim,
        "decoder_layers": config.decoder_layers, "decoder_attention_heads": config.decoder_attention_heads,
        "resnet_type": config.resnet_type, "max_source_positions": 1024, "max_target_positions": 1024,
        "token_bucket_size": config.token_bucket_size, "image_bucket_size": config.image_bucket_size,
        "code_image_size": config.code_image_size, "attn_scale_factor": 2, "dropout": config.dropout,
        "activation_fn": "gelu", "scale_attn": True, "scale_fc": True, "scale_heads": True, "disable_entangle": True,
        "entangle_position_embedding": False, "no_scale_embedding": True, "add_type_embedding": True,
        "task": "refcoco", "arch": "ofa_tiny", "lr": [0.001], "encoder_embed_path": None,
    }  # fmt: skip
    return Namespace(**{**theirs, **changes})


def meters():
    """The original trainer's record of its progress."""
    average = {"val": torch.tensor(1.5), "sum": torch.tensor(4.5), "count": 3, "round": 3}
    metrics = OrderedDict(default=[(10, "loss", "AverageMeter", average)])
    best = {"best": np.float64(0.75), "val_loss": np.float32(0.5), "updates": np.int64(3)}
    return {"metrics": metrics, "train_iterator": {"epoch": 1, "shuffle": True}, **best}


def write_nested(model, file, state=None, **more):
    """A file of the original trainer with its nested configuration."""
    cfg = {"_name": None, "model": options(model.config), "task": {"_name": "refcoco", "bpe_dir": "/bpe"}}
    content = {"args": None, "cfg": cfg, "model": state or fairseq_state(model), "extra_state": meters()}
    torch.save(content | more, file)
    return file


def write_args(model, file):
    """An older file with plain options and the optimizer state."""
    state = {0: {"step": 3, "exp_avg": torch.ones(2)}}
    torch.save(
        {"args": options(model.config), "cfg": None, "model": fairseq_state(model), "extra_state": meters(),
         "last_optimizer_state": {"state": state, "param_groups": [{"lr": 0.1}]}},
        file,
    )  # fmt: skip
    return file


def write_legacy_zipless(model, file):
    content = {"args": options(model.config), "model": fairseq_state(model)}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file


def write_bare(model, file):
    torch.save(hf_state(model), file)
    return file


def write_wrapped(model, file):
    torch.save({f"module.{name}": tensor for name, tensor in hf_state(model).items()}, file)
    return file


def hf_config(config):
    """config.json as published: the fields of the architecture and those common to all OFA models."""
    left_out = ("decoder_drop_path_rate", "init_std")
    fields = {name: value for name, value in config.to_dict().items() if name not in left_out}
    more = {"model_type": "ofa", "architectures": ["OFAModel"], "normformer": True, "activation_function": "gelu"}
    return {**fields, **more, "entangle_position_embedding": False, "torch_dtype": "float32", "use_cache": False}


def write_folder(model, folder, weights="pytorch_model.bin", parts=1):
    """A folder in Hugging Face style, of .bin or .safetensors files; without a vocabulary."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(model.config)))
    state = hf_state(model)
    if weights.endswith(".safetensors"):
        state = {name: tensor for name, tensor in state.items() if name not in TIED}
    save = save_file if weights.endswith(".safetensors") else torch.save
    if parts == 1:
        save(state, folder / weights)
        return folder
    names = list(state)
    stem, suffix = weights.rsplit(".", 1)
    files = {name: f"{stem}-{i % parts + 1:05}-of-{parts:05}.{suffix}" for i, name in enumerate(names)}
    for file in set(files.values()):
        save({name: state[name] for name in names if files[name] == file}, folder / file)
    (folder / f"{weights}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def write_modelscope(model, folder, description):
    write_folder(model, folder)
    (folder / "configuration.json").write_text(json.dumps(description))
    return folder


def small_config(**changes):
    return OFAConfig.from_dict({"d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 4,
                                "decoder_layers": 2, "decoder_ffn_dim": 48, "decoder_attention_heads": 2,
                                "resnet_type": "resnet14", "image_bucket_size": 8, "code_image_size": 32,
                                "token_bucket_size": 32, **changes})  # fmt: skip
