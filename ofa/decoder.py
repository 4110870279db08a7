"""The decoder: text or image codes with causal self-attention and attention to the encoder's output."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa.attention import (
    Attention,
    blocking_bias,
    patch_offset_buckets,
    patch_position_ids,
    position_scores,
    relative_scores,
    token_offset_buckets,
)
from ofa.config import OFAConfig
from ofa.encoder import EncoderOutput
from ofa.errors import UserError
from ofa.features import Feature, Recorder
from ofa.layers import TransformerLayer, drop_path_rates, relative_tables, run_layer
from ofa.vocabulary import PAD


@dataclass
class DecoderOutput:
    """Output of the decoder with the requested intermediate states."""

    last_hidden_state: Tensor  # [B, T, D], after the final norm; `OFAModel.logits` turns it into logits
    features: dict[Feature, Tensor] = field(default_factory=dict)


class DecoderLayer(TransformerLayer):
    """Self-attention, cross-attention and feed-forward."""

    def __init__(self, config: OFAConfig, drop_path: float) -> None:
        heads = config.decoder_attention_heads
        super().__init__(config, config.decoder_ffn_dim, heads, drop_path)
        self.cross_attn = Attention(config.d_model, heads, config.attn_scale_factor, config.attention_dropout)
        self.cross_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.cross_attn_mid_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        self_bias: Tensor,
        cross_bias: Tensor,
        wanted: Collection[str] = (),
        wanted_of_cross: Collection[str] = (),
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """x [B, T, D], source [B, L, D] -> the new x, and the wanted features of self- and of cross-attention."""
        x, features = self.attend_self(x, self_bias, wanted)
        source_keys_values = self.cross_attn.keys_values(source)
        x, features_of_cross = self.attend_source(x, *source_keys_values, cross_bias, wanted_of_cross)
        return self.feed_forward(x), features, features_of_cross

    def attend_source(
        self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor, wanted: Collection[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-attention block: x [B, T, D] reads the source's keys and values [B, H, L, d]."""
        attended, features = self.cross_attn(self.cross_attn_layer_norm(x), keys, values, bias, wanted)
        return self.residual(x, self.cross_attn_mid_layer_norm(attended)), features


class Decoder(nn.Module):
    """Embeds the tokens so far, adds the position biases, runs the layers. Its embedding is the encoder's, tied."""

    def __init__(self, config: OFAConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        self.config = config
        width, heads = config.d_model, config.decoder_attention_heads
        self.gradient_checkpointing = False
        self.embed_tokens = embed_tokens
        self.layernorm_embedding = nn.LayerNorm(width)
        self.code_layernorm_embedding = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
        self.embed_image_positions = nn.Embedding(config.image_bucket_size**2 + 1, width)
        self.pos_ln = nn.LayerNorm(width)
        self.image_pos_ln = nn.LayerNorm(width)
        self.self_pos_q_linear = nn.Linear(width, width)
        self.self_pos_k_linear = nn.Linear(width, width)
        self.cross_pos_q_linear = nn.Linear(width, width)
        self.cross_pos_k_linear = nn.Linear(width, width)
        self.token_rel_pos_table_list, self.image_rel_pos_table_list = relative_tables(
            config, heads, config.decoder_layers
        )
        rates = drop_path_rates(config.decoder_drop_path_rate, config.decoder_layers)
        self.layers = nn.ModuleList([DecoderLayer(config, rate) for rate in rates])
        self.layer_norm = nn.LayerNorm(width)
        self.output_projection = nn.Linear(width, config.vocab_size, bias=False)
        self.output_projection.weight = embed_tokens.weight

    def parts_of_image_codes(self) -> list[nn.Module]:
        """Modules used only if a target is a sequence of image codes."""
        norms = [self.code_layernorm_embedding, self.image_pos_ln]
        return [*norms, self.embed_image_positions, self.image_rel_pos_table_list]

    def forward(
        self,
        decoder_input_ids: Tensor,
        encoder_output: EncoderOutput,
        code_masks: Tensor | None = None,
        wanted: Collection[Feature] = (),
    ) -> DecoderOutput:
        """Decode whole sequences with a causal mask.

        Args:
            decoder_input_ids: [B, T], `<s>` first, right-padded.
            code_masks: [B] booleans, True where the sample's target is a sequence of image codes; None if none is.
            wanted: the intermediate states to return; those of the encoder are ignored.
        """
        x = self.embed(decoder_input_ids, code_masks)
        self_biases, cross_bias = self.position_biases(decoder_input_ids.shape[1], encoder_output, code_masks)
        recorder = Recorder(wanted)
        recorder.keep("decoder", 0, {"hidden": x})
        for i, (layer, self_bias) in enumerate(zip(self.layers, self_biases, strict=True)):
            kinds = (recorder.kinds("decoder", i), recorder.kinds("cross", i))
            arguments = (x, encoder_output.last_hidden_state, self_bias, cross_bias, *kinds)
            x, states, cross_states = run_layer(layer, arguments, self.gradient_checkpointing and self.training)
            recorder.keep("decoder", i, states)
            recorder.keep("cross", i, cross_states)
            recorder.keep("decoder", i + 1, {"hidden": x})
        return DecoderOutput(self.layer_norm(x), recorder.features)

    def embed(self, ids: Tensor, code_masks: Tensor | None) -> Tensor:
        """Embeddings [B, T, D] of ids [B, T], with a separate norm for image codes."""
        embedded = self.embed_tokens(ids)
        x = self.layernorm_embedding(embedded)
        if code_masks is not None:
            x = torch.where(code_masks[:, None, None], self.code_layernorm_embedding(embedded), x)
        return self.dropout(x).masked_fill((ids == PAD)[..., None], 0)

    def position_biases(
        self, length: int, encoder_output: EncoderOutput, code_masks: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """Each layer's causal self-attention bias [1 or B, H, T, T], and the cross-attention bias [B, H, T, L].

        One text bias serves the whole batch; samples of image codes have their own, selected by `code_masks`.
        """
        with torch.autocast(encoder_output.positions.device.type, enabled=False):
            self_biases, cross_bias = self._text_biases(length, encoder_output.positions)
            if code_masks is not None:
                is_code = code_masks[:, None, None, None]
                code_biases, code_cross = self._code_biases(length, encoder_output.positions)
                self_biases = [torch.where(is_code, c, t) for c, t in zip(code_biases, self_biases, strict=True)]
                cross_bias = torch.where(is_code, code_cross, cross_bias)
            return self_biases, cross_bias + blocking_bias(encoder_output.padding)

    def _text_biases(self, length: int, source_positions: Tensor) -> tuple[list[Tensor], Tensor]:
        config = self.config
        if length > config.max_position_embeddings:
            raise UserError(
                f"a target of {length} tokens is longer than the model's {config.max_position_embeddings} positions"
            )
        positions = self.pos_ln(self.embed_positions.weight[:length])[None]
        buckets = token_offset_buckets(
            length, config.token_bucket_size, config.max_position_embeddings, positions.device
        )
        return self._biases(positions, source_positions, self.token_rel_pos_table_list, buckets)

    def _code_biases(self, length: int, source_positions: Tensor) -> tuple[list[Tensor], Tensor]:
        config = self.config
        side = config.code_image_size // 8
        if length > side**2 + 1:
            raise UserError(
                f"{length - 1} image codes do not fit the {side} x {side} of code_image_size={config.code_image_size}"
            )
        ids = F.pad(patch_position_ids(side, side, config.image_bucket_size), (1, 0))[:length]
        positions = self.image_pos_ln(self.embed_image_positions(ids.to(source_positions.device)))[None]
        buckets = patch_offset_buckets((side, side), config.image_bucket_size, positions.device, off_grid=1)
        return self._biases(positions, source_positions, self.image_rel_pos_table_list, buckets[:length, :length])

    def _biases(
        self, positions: Tensor, source_positions: Tensor, tables: nn.ModuleList, buckets: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        heads, scale_factor = self.config.decoder_attention_heads, self.config.attn_scale_factor
        linears = (self.self_pos_q_linear, self.self_pos_k_linear)
        absolute = position_scores(positions, positions, *linears, heads, scale_factor)
        linears = (self.cross_pos_q_linear, self.cross_pos_k_linear)
        cross = position_scores(positions, source_positions, *linears, heads, scale_factor)
        future = torch.ones_like(buckets, dtype=torch.bool).triu(1)
        absolute = absolute.masked_fill(future, -torch.inf)
        return [absolute + relative_scores(table, buckets) for table in tables], cross
