"""Incremental decoding with key and value caches, and ensembles of models.

Cross-attention keys and values are computed once for each sample and shared by its beams, which are query rows.
Self-attention keys and values are kept in buffers of full length.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ofa.decoder import DecoderLayer
from ofa.encoder import EncoderOutput
from ofa.errors import UserError
from ofa.model import OFAModel


class StepDecoder:
    """State of a decoder that has read `length` tokens of each of K live hypotheses of B samples; K starts at 1.

    Args:
        max_length: the number of tokens it can read.
        allowed_ids: [A], the ids whose logits are needed; None for the vocabulary.
        code_masks: [B] booleans, True where the sample's target is a sequence of image codes.
    """

    def __init__(
        self,
        model: OFAModel,
        encoder_output: EncoderOutput,
        max_length: int,
        allowed_ids: Tensor | None,
        code_masks: Tensor | None = None,
    ) -> None:
        self.decoder = model.decoder
        self.code_masks = code_masks
        embedding = model.decoder.output_projection.weight
        self.output_weight = embedding if allowed_ids is None else embedding[allowed_ids]
        self.self_biases, self.cross_bias = model.decoder.position_biases(max_length, encoder_output, code_masks)
        source = encoder_output.last_hidden_state
        self.cross = [layer.cross_attn.keys_values(source) for layer in self.decoder.layers]
        rows, width, heads = len(source), model.config.d_model, model.config.decoder_attention_heads
        shape = (rows, heads, max_length, width // heads)
        self.caches = [(source.new_zeros(shape), source.new_zeros(shape)) for _ in self.decoder.layers]
        self.length = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Read the newest tokens [B, K] of all live hypotheses; return logits [B, K, A] for the next."""
        samples, beams = tokens.shape
        code_masks = None if self.code_masks is None else self.code_masks.repeat_interleave(beams)
        # For embedding and self-attention each hypothesis is a row, for cross-attention a query of its sample.
        x = self.decoder.embed(tokens.view(-1, 1), code_masks).view(samples, beams, -1)
        for i, layer in enumerate(self.decoder.layers):
            x = self._attend_self(x, layer, *self.caches[i], self.self_biases[i])
            x, _ = layer.attend_source(x, *self.cross[i], self.cross_bias[:, :, self.length, None])
            x = layer.feed_forward(x)
        self.length += 1
        return torch.nn.functional.linear(self.decoder.layer_norm(x), self.output_weight)

    def _attend_self(self, x: Tensor, layer: DecoderLayer, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        samples, beams, width = x.shape
        normed = layer.self_attn_layer_norm(x).view(-1, 1, width)
        new_keys, new_values = layer.self_attn.keys_values(normed)
        now, known = self.length, self.length + 1
        keys[:, :, now:known], values[:, :, now:known] = new_keys, new_values
        bias = bias[:, :, now, None, :known]
        if len(bias) > 1:  # image codes and text in one batch: a bias for each sample
            bias = bias.repeat_interleave(beams, 0)
        attended, _ = layer.self_attn(normed, keys[:, :, :known], values[:, :, :known], bias)
        return layer.residual(x, layer.self_attn_mid_layer_norm(attended).view(samples, beams, width))

    def select(self, samples: Tensor | None, beams: Tensor) -> None:
        """Continue with the samples [B'] (None: all), each with the beams [B', K'], indices into its former K."""
        former = len(self.caches[0][0]) // len(self.cross[0][0])
        if samples is not None:
            self.cross = [(keys[samples], values[samples]) for keys, values in self.cross]
            self.cross_bias = self.cross_bias[samples]
            if self.code_masks is not None:
                self.code_masks = self.code_masks[samples]
                self.self_biases = [b[samples] if len(b) > 1 else b for b in self.self_biases]
        index = torch.arange(len(beams), device=beams.device) if samples is None else samples
        rows = (index[:, None] * former + beams).flatten()
        if len(rows) == len(self.caches[0][0]):
            for cache in self.caches:
                for buffer in cache:
                    buffer[:, :, : self.length] = buffer[rows, :, : self.length]
        else:
            self.caches = [(keys[rows], values[rows]) for keys, values in self.caches]


def models_of(model: OFAModel | Sequence[OFAModel]) -> list[OFAModel]:
    """The models of an ensemble, or the one model as a list; UserError if one is in training mode."""
    models = [model] if isinstance(model, OFAModel) else list(model)
    if any(m.training for m in models):
        raise UserError("a model is in training mode; call model.eval() first")
    return models


def encode(model: OFAModel, batch: Mapping[str, Tensor | None]) -> EncoderOutput:
    """The encoder output of a batch (see `generate`)."""
    return model.encoder(**{name: batch.get(name) for name in ("input_ids", "patch_images", "patch_masks")})


def average(log_probabilities: list[Tensor]) -> Tensor:
    """The logarithm of the mean probability over models; all tensors have the same shape."""
    if len(log_probabilities) == 1:
        return log_probabilities[0]
    return torch.stack(log_probabilities).logsumexp(0) - torch.tensor(float(len(log_probabilities))).log()
