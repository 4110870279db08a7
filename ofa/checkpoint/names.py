"""The names of weights: the original trainer's, those in Hugging Face style, and ours, which are the latter."""

from __future__ import annotations

import re

EMBEDDING = "encoder.embed_tokens.weight"
TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")  # the same matrix again

# Parts of names that the original trainer writes otherwise.
RENAMED = {
    "attn_ln": "self_attn_mid_layer_norm",
    "self_attn_ln": "self_attn_mid_layer_norm",
    "encoder_attn": "cross_attn",
    "encoder_attn_layer_norm": "cross_attn_layer_norm",
    "cross_attn_ln": "cross_attn_mid_layer_norm",
    "ffn_layernorm": "ffn_layer_norm",
}

# Tables that follow from the sizes, and marks of the original trainer's.
COMPUTED = re.compile(r"(.*\.)?(version|_float_tensor|token_rp_bucket|image_rp_bucket|image_position_idx)")

POSITIONS = re.compile(r"(encoder|decoder)\.embed_(image_)?positions\.weight")
COUNTER = ".num_batches_tracked"  # of batch norms; nothing reads it, and files with frozen ones lack it


def our_name(name: str) -> str | None:
    """The name in our model, or None for what is computed there."""
    if COMPUTED.fullmatch(name):
        return None
    return ".".join(RENAMED.get(part, part) for part in name.split("."))
