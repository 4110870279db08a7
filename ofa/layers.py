"""Common parts of encoder and decoder layers: self-attention, feed-forward block and residual branch."""

from collections.abc import Collection

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ofa.attention import Attention
from ofa.config import OFAConfig


class Residual(nn.Module):
    """x + drop_path(dropout(branch)): a sample keeps the whole branch or none of it (arXiv 1603.09382)."""

    def __init__(self, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Of x and branch [B, L, D], the same shape."""
        return x + self.drop_path(self.dropout(branch))


class TransformerLayer(nn.Module):
    """Base of encoder and decoder layers: pre-norm self-attention and feed-forward, with NormFormer's middle norms."""

    def __init__(self, config: OFAConfig, ffn_dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.residual = Residual(config.dropout, drop_path)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, ffn_dim)
        self.ffn_layer_norm = nn.LayerNorm(ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, config.d_model)
        self.self_attn = Attention(config.d_model, heads, config.attn_scale_factor, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.self_attn_mid_layer_norm = nn.LayerNorm(config.d_model)

    def attend_self(self, x: Tensor, bias: Tensor, wanted: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """x [B, L, D], bias broadcastable to [B, H, L, L] -> the new x, and the wanted features of the attention."""
        normed = self.self_attn_layer_norm(x)
        attended, features = self.self_attn(normed, *self.self_attn.keys_values(normed), bias, wanted)
        return self.residual(x, self.self_attn_mid_layer_norm(attended)), features

    def feed_forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D], the residual included."""
        hidden = self.activation_dropout(F.gelu(self.fc1(self.final_layer_norm(x))))
        return self.residual(x, self.fc2(self.ffn_layer_norm(hidden)))


def run_layer(layer: nn.Module, arguments: tuple, checkpointed: bool) -> tuple:
    """Calls a layer; if checkpointed, its activations are computed again in the backward pass."""
    return checkpoint(layer, *arguments, use_reentrant=False) if checkpointed else layer(*arguments)


def drop_path_rates(rate: float, layers: int) -> list[float]:
    """Rates rising linearly from 0 at the first layer to `rate` at the last."""
    return [rate * i / max(layers - 1, 1) for i in range(layers)]


def relative_tables(config: OFAConfig, heads: int, layers: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    """One table of relative position biases per layer, for text tokens and for image patches (see `ofa.attention`)."""
    token_buckets = 2 * config.token_bucket_size - 1
    patch_buckets = (2 * config.image_bucket_size - 1) ** 2 + 3
    return (
        nn.ModuleList([nn.Embedding(token_buckets, heads) for _ in range(layers)]),
        nn.ModuleList([nn.Embedding(patch_buckets, heads) for _ in range(layers)]),
    )
