"""The encoder: image patches, then text tokens, through one stack of layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ofa.attention import (
    blocking_bias,
    patch_offset_buckets,
    patch_position_ids,
    position_scores,
    relative_scores,
    token_offset_buckets,
)
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.features import Feature, Recorder
from ofa.layers import TransformerLayer, drop_path_rates, relative_tables, run_layer
from ofa.vision import PATCH_WIDTH, build_backbone, fold_batch_norms
from ofa.vocabulary import PAD

Value = TypeVar("Value")


class WeightDerivedCache(Generic[Value]):
    """One value, computed again when its weights have changed, by address or version, or another key is requested."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Drop the value."""
        self._key: Hashable = None
        self._value: Value | None = None

    def get(self, what: Hashable, weights: Iterable[Tensor], make: Callable[[], Value]) -> Value:
        """The cached value for `what` and these weights, else that of `make`, which is cached."""
        key = (what, *((tensor.data_ptr(), tensor._version) for tensor in weights))
        if key != self._key:
            self._key, self._value = key, make()
        return self._value


@dataclass
class EncoderOutput:
    """Output of the encoder with the requested intermediate states; L counts image patches, then text tokens."""

    last_hidden_state: Tensor  # [B, L, D], after the final norm
    padding: Tensor  # [B, L] booleans, True at positions that are masked
    positions: Tensor  # [1, L, D], the normalised position vectors of the source
    features: dict[Feature, Tensor] = field(default_factory=dict)

    def repeat_interleave(self, times: int) -> EncoderOutput:
        """The final states of each sample `times` times in a row, for as many targets of one source."""
        return EncoderOutput(
            self.last_hidden_state.repeat_interleave(times, 0), self.padding.repeat_interleave(times, 0), self.positions
        )


class EncoderLayer(TransformerLayer):
    """Self-attention and feed-forward."""

    def __init__(self, config: OFAConfig, drop_path: float) -> None:
        super().__init__(config, config.encoder_ffn_dim, config.encoder_attention_heads, drop_path)

    def forward(self, x: Tensor, bias: Tensor, wanted: Collection[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """Arguments and results as of `attend_self`."""
        x, features = self.attend_self(x, bias, wanted)
        return self.feed_forward(x), features


class Encoder(nn.Module):
    """Embeds images and text, adds the position biases, runs the layers."""

    def __init__(self, config: OFAConfig) -> None:
        super().__init__()
        self.config = config
        width, heads = config.d_model, config.encoder_attention_heads
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, width, padding_idx=PAD)
        self.type_embedding = nn.Embedding(2, width)  # 0 text, 1 image
        self.layernorm_embedding = nn.LayerNorm(width)
        self.embed_images = build_backbone(config.resnet_stages, config.resnet_drop_path_rate)
        self.image_proj = nn.Linear(PATCH_WIDTH, width)
        self.patch_layernorm_embedding = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.embed_image_positions = nn.Embedding(config.image_bucket_size**2 + 1, width)
        self.pos_ln = nn.LayerNorm(width)
        self.image_pos_ln = nn.LayerNorm(width)
        self.pos_q_linear = nn.Linear(width, width)
        self.pos_k_linear = nn.Linear(width, width)
        self.token_rel_pos_table_list, self.image_rel_pos_table_list = relative_tables(
            config, heads, config.encoder_layers
        )
        rates = drop_path_rates(config.encoder_drop_path_rate, config.encoder_layers)
        self.layers = nn.ModuleList([EncoderLayer(config, rate) for rate in rates])
        self.layer_norm = nn.LayerNorm(width)
        self._kept_biases: WeightDerivedCache[list[Tensor]] = WeightDerivedCache()
        self._kept_backbone: WeightDerivedCache[nn.Module] = WeightDerivedCache()

    def train(self, mode: bool = True) -> Encoder:
        self._kept_biases.clear()
        self._kept_backbone.clear()
        return super().train(mode)

    def forward(
        self,
        input_ids: Tensor,
        patch_images: Tensor | None = None,
        patch_masks: Tensor | None = None,
        wanted: Collection[Feature] = (),
    ) -> EncoderOutput:
        """Encode a batch; arguments and errors as of `OFAModel.forward`.

        Args:
            wanted: the intermediate states to return; those of the decoder are ignored.
        """
        x, padding, grid = self.embed(input_ids, patch_images, patch_masks)
        with torch.autocast(x.device.type, enabled=False):  # position biases are small: full precision costs nothing
            positions = self.positions(input_ids.shape[1], grid)
            biases = self.position_biases(positions, grid)
            blocked = blocking_bias(padding) if padding.any() else None
        recorder = Recorder(wanted)
        recorder.keep("encoder", 0, {"hidden": x})
        for i, (layer, bias) in enumerate(zip(self.layers, biases, strict=True)):
            arguments = (x, bias if blocked is None else bias + blocked, recorder.kinds("encoder", i))
            x, states = run_layer(layer, arguments, self.gradient_checkpointing and self.training)
            recorder.keep("encoder", i, states)
            recorder.keep("encoder", i + 1, {"hidden": x})
        return EncoderOutput(self.layer_norm(x), padding, positions, recorder.features)

    def embed(
        self, input_ids: Tensor, patch_images: Tensor | None, patch_masks: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Embeddings [B, L, D] with zeros at padding, padding [B, L], and the rows and columns of patches."""
        padding = input_ids == PAD
        text = self.embed_tokens(input_ids) + self.type_embedding.weight[0]
        x = self.dropout(self.layernorm_embedding(text))
        grid = (0, 0)
        if patch_images is not None:
            height, width = patch_images.shape[-2:]
            if max(height, width) > self.config.max_image_size:
                raise UserError(
                    f"an image of {width} x {height} px has more patches than the model has positions: use at most "
                    f"{self.config.max_image_size} px per side (image_size)"
                )
            patches = self._backbone()(patch_images.contiguous(memory_format=torch.channels_last))[0]
            grid = (patches.shape[2], patches.shape[3])
            patches = self.image_proj(patches.flatten(2).transpose(1, 2)) + self.type_embedding.weight[1]
            patches = self.dropout(self.patch_layernorm_embedding(patches))
            absent = torch.zeros(patches.shape[:2], dtype=torch.bool, device=x.device)
            if patch_masks is not None:
                absent |= ~patch_masks[:, None]
            x = torch.cat([patches.to(x.dtype), x], dim=1)
            padding = torch.cat([absent, padding], dim=1)
        return x.masked_fill(padding[..., None], 0), padding, grid

    def positions(self, text_length: int, grid: tuple[int, int]) -> Tensor:
        """Normalised position vectors [1, L, D] of the patches of a grid, then of the text."""
        if text_length > self.config.max_position_embeddings:
            raise UserError(
                f"a source text of {text_length} tokens is longer than the {self.config.max_position_embeddings} "
                f"positions of the model; shorten it (max_source_tokens)"
            )
        text = self.pos_ln(self.embed_positions.weight[:text_length])
        ids = patch_position_ids(*grid, self.config.image_bucket_size).to(text.device)
        patches = self.image_pos_ln(self.embed_image_positions(ids))
        return torch.cat([patches, text])[None]

    def position_biases(self, positions: Tensor, grid: tuple[int, int]) -> Iterable[Tensor]:
        """Each layer's bias [1, H, L, L], the same for the whole batch.

        In evaluation they are cached: as the text is last, those of the longest text so far serve all shorter ones.
        """
        if not self._may_keep():
            return self._compute_biases(positions, grid)
        length = positions.shape[1]
        for _ in range(2):  # again if the cached biases are too short
            parameters = (p for name, p in self.named_parameters() if "pos" in name and not name.startswith("layers."))
            biases = self._kept_biases.get(grid, parameters, lambda: list(self._compute_biases(positions, grid)))
            if biases[0].shape[-1] >= length:
                break
            self._kept_biases.clear()
        return [bias[..., :length, :length] for bias in biases]

    def _compute_biases(self, positions: Tensor, grid: tuple[int, int]) -> Iterator[Tensor]:
        n_patches = grid[0] * grid[1]
        config, device = self.config, positions.device
        heads, scale_factor = config.encoder_attention_heads, config.attn_scale_factor
        absolute = position_scores(positions, positions, self.pos_q_linear, self.pos_k_linear, heads, scale_factor)
        tokens = token_offset_buckets(
            positions.shape[1] - n_patches, config.token_bucket_size, config.max_position_embeddings, device
        )
        patches = patch_offset_buckets(grid, config.image_bucket_size, device)
        for token_table, image_table in zip(self.token_rel_pos_table_list, self.image_rel_pos_table_list, strict=True):
            bias = absolute.clone()
            bias[..., :n_patches, :n_patches] += relative_scores(image_table, patches)
            bias[..., n_patches:, n_patches:] += relative_scores(token_table, tokens)
            yield bias

    def _backbone(self) -> nn.Module:
        """The backbone or, in evaluation, a faster copy."""
        if not self._may_keep():
            return self.embed_images
        weights = (*self.embed_images.parameters(), *self.embed_images.buffers())
        return self._kept_backbone.get("folded", weights, lambda: fold_batch_norms(self.embed_images))

    def _may_keep(self) -> bool:
        """Whether values computed from weights may be cached; a compiled graph has no such state."""
        return not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
