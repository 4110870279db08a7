"""Intermediate states of a model: a caller names those it needs, and only they are kept."""

from collections.abc import Collection
from typing import NamedTuple

from torch import Tensor

ATTENTION_KINDS = ("attention", "query", "key", "value")


class Feature(NamedTuple):
    """The name of one intermediate state.

    Kinds: attention, the probabilities [B, H, L, L] (cross: [B, H, T, L]) before dropout; query, key or value of an
    attention, [B, H, L, d] (cross: queries [B, H, T, d]); hidden, [B, L, D] before the stack's final norm. In the
    decoder, T stands in the place of L.
    """

    stack: str  # encoder, decoder, or cross, the decoder's attention to the encoder output
    kind: str
    layer: int  # from 0; of hidden states 0 is the embeddings and i + 1 the output of layer i


class Recorder:
    """Keeps the states of a forward pass that are in `wanted`."""

    def __init__(self, wanted: Collection[Feature]) -> None:
        self.wanted = wanted
        self.features: dict[Feature, Tensor] = {}

    def kinds(self, stack: str, layer: int) -> tuple[str, ...]:
        """The wanted kinds of one attention."""
        return tuple(kind for kind in ATTENTION_KINDS if Feature(stack, kind, layer) in self.wanted)

    def keep(self, stack: str, layer: int, states: dict[str, Tensor]) -> None:
        """Keep the wanted states, by kind, of one layer."""
        for kind, state in states.items():
            if Feature(stack, kind, layer) in self.wanted:
                self.features[Feature(stack, kind, layer)] = state


def features_of_layers(stack: str, kind: str, layers: int) -> list[Feature]:
    """One kind of state of all layers; hidden states have one more, the embeddings."""
    return [Feature(stack, kind, layer) for layer in range(layers + (kind == "hidden"))]
