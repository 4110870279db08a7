"""Intermediate features: the requested ones are returned, and nothing else is computed or changed."""

import copy
from unittest.mock import Mock

import torch
import torch.nn.functional as F

from ofa.features import Feature, features_of_layers

WANTED = {
    Feature("encoder", "attention", 1): (2, 4, 7, 7),  # 2 x 2 patches and 3 tokens
    Feature("encoder", "hidden", 0): (2, 7, 64),
    Feature("encoder", "value", 0): (2, 4, 7, 16),
    Feature("decoder", "attention", 0): (2, 4, 2, 2),
    Feature("decoder", "hidden", 2): (2, 2, 64),
    Feature("decoder", "query", 1): (2, 4, 2, 16),
    Feature("cross", "attention", 1): (2, 4, 2, 7),
    Feature("cross", "query", 0): (2, 4, 2, 16),
    Feature("cross", "key", 0): (2, 4, 7, 16),
}


SOURCE = torch.tensor([[0, 11, 2], [0, 2, 1]])
PREVIOUS = torch.tensor([[0, 7], [0, 1]])
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def features(model, wanted):
    encoded = model.encoder(SOURCE, IMAGES, wanted=wanted)
    decoded = model.decoder(PREVIOUS, encoded, wanted=wanted)
    return decoded.last_hidden_state, encoded.features | decoded.features


@torch.no_grad()
def test_only_the_requested_features_are_returned(model):
    last, found = features(model, set(WANTED))
    assert {feature: tuple(state.shape) for feature, state in found.items()} == WANTED
    torch.testing.assert_close(last, features(model, ())[0], rtol=1e-4, atol=1e-5)
    everything = model(SOURCE, IMAGES, None, PREVIOUS, output_hidden_states=True, output_attentions=True)
    for feature, listed in {
        Feature("encoder", "attention", 1): everything.encoder_attentions[1],
        Feature("cross", "attention", 1): everything.cross_attentions[1],
        Feature("decoder", "hidden", 2): everything.decoder_hidden_states[2],
    }.items():
        torch.testing.assert_close(found[feature], listed, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_attention_map_is_the_softmax_of_its_queries_and_keys(model):
    kinds = [Feature("cross", kind, 1) for kind in ("query", "key", "attention")]
    queries, keys, attention = map(features(model, kinds)[1].__getitem__, kinds)
    encoded = model.encoder(SOURCE, IMAGES)
    _, bias = model.decoder.position_biases(2, encoded, None)
    scores = queries @ keys.transpose(-1, -2) * model.decoder.layers[1].cross_attn.scale + bias
    torch.testing.assert_close(scores.softmax(-1), attention)


@torch.no_grad()
def test_attention_maps_are_computed_only_in_the_requested_layers(model, monkeypatch):
    fused = Mock(side_effect=F.scaled_dot_product_attention)
    monkeypatch.setattr(F, "scaled_dot_product_attention", fused)
    features(model, features_of_layers("encoder", "query", 2))
    assert fused.call_count == 6  # two layers of the encoder; two of the decoder, each with cross-attention
    features(model, [Feature("cross", "attention", 0)])
    assert fused.call_count == 11


def test_features_are_the_same_with_checkpointing_and_compilation(model):
    model = copy.deepcopy(model)
    expected = features(model, set(WANTED))[1]
    model.train().set_gradient_checkpointing(True)
    model.encoder.embed_images.eval()
    checkpointed = features(model, set(WANTED))[1]
    sum(state.sum() for state in checkpointed.values()).backward()
    assert model.encoder.layers[0].self_attn.v_proj.weight.grad is not None
    model.eval().set_gradient_checkpointing(False)
    model.encoder.compile(backend="eager")
    model.decoder.compile(backend="eager")
    for found in (checkpointed, features(model, set(WANTED))[1]):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
