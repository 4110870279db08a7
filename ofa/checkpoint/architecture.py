"""The shape of the model in a checkpoint: what it says of itself, checked against its weights, else read off them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa.checkpoint.names import EMBEDDING
from ofa.config import RESNET_STAGES, OFAConfig
from ofa.errors import UserError

FIELDS = {field.name: type(field.default) for field in dataclasses.fields(OFAConfig)}

# What published config.json files say beside those fields, which is how every model of ours is.
ALWAYS = {
    "activation_function": "gelu",
    "add_type_embedding": True,
    "code_layernorm_embedding": True,
    "decoder_normalize_before": True,
    "encoder_normalize_before": True,
    "entangle_position_embedding": False,
    "layernorm_embedding": True,
    "normformer": True,
    "patch_layernorm_embedding": True,
    "scale_attn": True,
    "scale_embedding": False,
    "scale_fc": True,
    "scale_heads": True,
    "share_decoder_input_output_embed": True,
}

HF_ONLY = ("activation_function", "normformer", "scale_embedding")

# The original trainer's names of our fields, where they differ, and of how every model is.
FAIRSEQ_FIELDS = {
    "d_model": "encoder_embed_dim",
    "encoder_ffn_dim": "encoder_ffn_embed_dim",
    "decoder_ffn_dim": "decoder_ffn_embed_dim",
    "max_position_embeddings": "max_source_positions",
}
FAIRSEQ_ALWAYS = {
    "activation_fn": "gelu",
    "disable_entangle": True,
    "interpolate_position": False,
    "no_scale_embedding": True,
    "scale_resids": False,
    "share_all_embeddings": True,
    **{key: value for key, value in ALWAYS.items() if key not in HF_ONLY},
}
# The original's names are of other networks than what they build: bottleneck blocks throughout.
FAIRSEQ_RESNETS = {"resnet18": "resnet26", "resnet34": "resnet50"}

STAGE = "encoder.embed_images.layer{}"
GROWING = ("vocab_size", "max_position_embeddings")  # a file may have fewer rows than it says


def hf_settings(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Fields and values of OFAConfig out of a published config.json; what it leaves out has its usual value.

    Raises:
        UserError: it says how no model of ours is.
    """
    _check_always(config, ALWAYS, file)
    return _typed({name: config[name] for name in FIELDS if name in config}, file)


def fairseq_settings(options: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The same out of the options of the original trainer's model."""
    _check_always(options, FAIRSEQ_ALWAYS, file)
    theirs = {name: FAIRSEQ_FIELDS.get(name, name) for name in FIELDS}
    return _typed({name: options[key] for name, key in theirs.items() if options.get(key) is not None}, file)


def config_of(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], file: Path) -> OFAConfig:
    """The configuration that fits weights of these names and shapes.

    Args:
        settings: fields that are known; those that no shape shows have the usual values where they are not.

    Raises:
        UserError: settings and weights contradict each other, or no OFA model has such weights.
    """
    found = _read_off(shapes, file)
    settings = dict(settings)
    resnet = settings.get("resnet_type")
    if FAIRSEQ_RESNETS.get(resnet) == found["resnet_type"]:
        settings["resnet_type"] = found["resnet_type"]
    for key, value in found.items():
        if key not in GROWING and settings.get(key, value) != value:
            raise UserError(
                f"{file} says {key}={settings[key]}, but its weights are those of {key}={value}: they do not belong "
                "together; copy both again from one model"
            )
    if settings.get("vocab_size", math.inf) < found["vocab_size"]:
        raise UserError(
            f"{file} says vocab_size={settings['vocab_size']}, but {EMBEDDING} has {found['vocab_size']} rows: they do "
            "not belong together; copy both again from one model"
        )
    if "code_image_size" not in settings:  # the usual one, as far as there are positions
        found["code_image_size"] = min(OFAConfig.code_image_size, 8 * found["image_bucket_size"])
    return build_config({**found, **settings}, file)


def build_config(settings: Mapping[str, Any], file: Path) -> OFAConfig:
    """The configuration with these fields.

    Raises:
        UserError: no model has them; it names the file that they are from.
    """
    try:
        return OFAConfig.from_dict(settings)
    except (UserError, ArithmeticError, TypeError) as error:
        raise UserError(f"{file} describes no OFA model: {error}") from error


def _check_always(config: Mapping[str, Any], always: Mapping[str, Any], file: Path) -> None:
    for key, value in always.items():
        if config.get(key, value) not in (value, None):
            raise UserError(
                f"{file} holds a model with {key}={config[key]}, which is not supported: all released ones have "
                f"{key}={value}"
            )


def _typed(settings: dict[str, Any], file: Path) -> dict[str, Any]:
    """Numbers as the fields have them: 2 where a file says 2.0, and the other way round."""
    for key, value in settings.items():
        kind = FIELDS[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if kind is not str and is_number and kind(value) == value:
            settings[key] = kind(value)
        elif kind is not type(value):
            raise UserError(f"{file} says {key}={value!r}, which is no {kind.__name__}; copy it again from the model")
    return settings


def _read_off(shapes: Mapping[str, tuple[int, ...]], file: Path) -> dict[str, Any]:
    """The fields that shapes show."""
    try:
        vocabulary, width = shapes[EMBEDDING]
        positions, _ = shapes["encoder.embed_positions.weight"]
        cells, _ = shapes["encoder.embed_image_positions.weight"]
        offsets, _ = shapes["encoder.token_rel_pos_table_list.0.weight"]
        found = {
            "d_model": width,
            "vocab_size": vocabulary,
            "max_position_embeddings": positions - 2,
            "image_bucket_size": math.isqrt(cells - 1),
            "token_bucket_size": (offsets + 1) // 2,
            "resnet_type": _resnet(shapes, file),
        }
        for stack in ("encoder", "decoder"):
            found[f"{stack}_layers"] = _count(shapes, f"{stack}.layers")
            found[f"{stack}_ffn_dim"], _ = shapes[f"{stack}.layers.0.fc1.weight"]
            (found[f"{stack}_attention_heads"],) = shapes[f"{stack}.layers.0.self_attn.c_attn"]
    except KeyError as error:
        raise UserError(f"{file} does not hold the weights of an OFA model: it lacks {error.args[0]}") from error
    except ValueError as error:
        raise UserError(f"{file} does not hold the weights of an OFA model: {error}") from error
    return found


def _resnet(shapes: Mapping[str, tuple[int, ...]], file: Path) -> str:
    stages = tuple(_count(shapes, STAGE.format(i)) for i in (1, 2, 3))
    for name, blocks in RESNET_STAGES.items():
        if blocks == stages:
            return name
    known = "; ".join(f"{name} {', '.join(map(str, blocks))}" for name, blocks in RESNET_STAGES.items())
    raise UserError(
        f"{file} has an image backbone of {', '.join(map(str, stages))} blocks in its three stages, which is none that "
        f"is known ({known})"
    )


def _count(shapes: Mapping[str, tuple[int, ...]], parent: str) -> int:
    """How many children with a number the module `parent` has."""
    start = f"{parent}."
    return len({name.removeprefix(start).split(".")[0] for name in shapes if name.startswith(start)})
