"""Model configuration and weight names of a checkpoint: from its own settings, checked against its tensor shapes."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa.config import RESNET_STAGES, OFAConfig
from ofa.errors import UserError

EMBEDDING = "encoder.embed_tokens.weight"
TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")  # the same matrix

# Parts of names that differ in the original trainer.
RENAMED = {
    "attn_ln": "self_attn_mid_layer_norm", "self_attn_ln": "self_attn_mid_layer_norm", "encoder_attn": "cross_attn",
    "encoder_attn_layer_norm": "cross_attn_layer_norm", "cross_attn_ln": "cross_attn_mid_layer_norm",
    "ffn_layernorm": "ffn_layer_norm",
}  # fmt: skip

# Tables computed from the configuration, and markers of the original trainer.
COMPUTED = re.compile(r"(.*\.)?(version|_float_tensor|token_rp_bucket|image_rp_bucket|image_position_idx)")

POSITIONS = re.compile(r"(encoder|decoder)\.embed_(image_)?positions\.weight")
COUNTER = ".num_batches_tracked"  # of batch norms; never read, and missing in files with frozen ones

FIELDS = {field.name: type(field.default) for field in dataclasses.fields(OFAConfig)}

# Settings of published config.json files that every OFAModel has.
CONSTANT = {
    "activation_function": "gelu", "normformer": True, "scale_embedding": False, "entangle_position_embedding": False,
    **dict.fromkeys((
        "add_type_embedding", "code_layernorm_embedding", "decoder_normalize_before", "encoder_normalize_before",
        "layernorm_embedding", "patch_layernorm_embedding", "scale_attn", "scale_fc", "scale_heads",
        "share_decoder_input_output_embed",
    ), True),
}  # fmt: skip
HF_ONLY = ("activation_function", "normformer", "scale_embedding")

# Names in the original trainer where they differ from ours, and its constant settings.
FAIRSEQ_FIELDS = {
    "d_model": "encoder_embed_dim", "encoder_ffn_dim": "encoder_ffn_embed_dim",
    "decoder_ffn_dim": "decoder_ffn_embed_dim", "max_position_embeddings": "max_source_positions",
}  # fmt: skip
FAIRSEQ_CONSTANT = {
    "activation_fn": "gelu", "disable_entangle": True, "interpolate_position": False, "no_scale_embedding": True,
    "scale_resids": False, "share_all_embeddings": True,
    **{key: value for key, value in CONSTANT.items() if key not in HF_ONLY},
}  # fmt: skip
# The original trainer builds bottleneck blocks under the names of networks without them.
FAIRSEQ_RESNETS = {"resnet18": "resnet26", "resnet34": "resnet50"}

GROWING = ("vocab_size", "max_position_embeddings")  # a file may have fewer rows than its settings


def our_name(name: str) -> str | None:
    """The name of a weight in our model (as on Hugging Face); None for a computed table.

    >>> our_name("decoder.layers.0.encoder_attn.q_proj.weight")
    'decoder.layers.0.cross_attn.q_proj.weight'
    """
    if COMPUTED.fullmatch(name):
        return None
    return ".".join(RENAMED.get(part, part) for part in name.split("."))


def hf_settings(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The OFAConfig fields in a published config.json; UserError for an unsupported variant."""
    _check_constant(config, CONSTANT, file)
    return _typed({name: config[name] for name in FIELDS if name in config}, file)


def fairseq_settings(options: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The same from the model options of the original trainer."""
    _check_constant(options, FAIRSEQ_CONSTANT, file)
    theirs = {name: FAIRSEQ_FIELDS.get(name, name) for name in FIELDS}
    return _typed({name: options[key] for name, key in theirs.items() if options.get(key) is not None}, file)


def infer_config(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], file: Path) -> OFAConfig:
    """The configuration that fits weights of these shapes and the known settings; others have their defaults.

    Raises UserError if settings and weights contradict each other, or the weights are not those of an OFA model.
    """
    found = _from_shapes(shapes, file)
    settings = dict(settings)
    resnet = settings.get("resnet_type")
    if FAIRSEQ_RESNETS.get(resnet) == found["resnet_type"]:
        settings["resnet_type"] = found["resnet_type"]
    misfits = [
        f"{key}={settings[key]}, but weights of {key}={value}"
        for key, value in found.items()
        if key not in GROWING and settings.get(key, value) != value
    ]
    if settings.get("vocab_size", math.inf) < found["vocab_size"]:
        misfits.append(f"vocab_size={settings['vocab_size']}, but {EMBEDDING} has {found['vocab_size']} rows")
    if misfits:
        raise UserError(
            f"{file} has the setting {misfits[0]}: they do not belong together; copy both again from one model"
        )
    if "code_image_size" not in settings:  # the default, limited by the number of positions
        found["code_image_size"] = min(OFAConfig.code_image_size, 8 * found["image_bucket_size"])
    return build_config({**found, **settings}, file)


def build_config(settings: Mapping[str, Any], file: Path) -> OFAConfig:
    """The configuration with these fields; UserError, which names `file`, if no model has them."""
    try:
        return OFAConfig.from_dict(settings)
    except (UserError, ArithmeticError, TypeError) as error:
        raise UserError(f"{file} does not describe an OFA model: {error}") from error


def _check_constant(config: Mapping[str, Any], constant: Mapping[str, Any], file: Path) -> None:
    for key, value in constant.items():
        if config.get(key, value) not in (value, None):
            raise UserError(
                f"{file} holds a model with {key}={config[key]}, which is not supported: all released ones have "
                f"{key}={value}"
            )


def _typed(settings: dict[str, Any], file: Path) -> dict[str, Any]:
    """Numbers in the type of their fields: 2 for 2.0, and vice versa."""
    for key, value in settings.items():
        kind = FIELDS[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if kind is not str and is_number and kind(value) == value:
            settings[key] = kind(value)
        elif kind is not type(value):
            raise UserError(f"{file} has {key}={value!r}, which is not of type {kind.__name__}; copy it again")
    return settings


def _from_shapes(shapes: Mapping[str, tuple[int, ...]], file: Path) -> dict[str, Any]:
    """The fields that shapes determine."""
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
    except (KeyError, ValueError) as error:
        reason = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else error
        raise UserError(f"{file} does not hold the weights of an OFA model: {reason}") from error
    return found


def _resnet(shapes: Mapping[str, tuple[int, ...]], file: Path) -> str:
    stages = tuple(_count(shapes, f"encoder.embed_images.layer{i}") for i in (1, 2, 3))
    for name, blocks in RESNET_STAGES.items():
        if blocks == stages:
            return name
    known = "; ".join(f"{name} {', '.join(map(str, blocks))}" for name, blocks in RESNET_STAGES.items())
    raise UserError(f"{file} has an unknown image backbone of {', '.join(map(str, stages))} blocks (known: {known})")


def _count(shapes: Mapping[str, tuple[int, ...]], parent: str) -> int:
    """The number of numbered children of the module `parent`."""
    start = f"{parent}."
    return len({name.removeprefix(start).split(".")[0] for name in shapes if name.startswith(start)})
