"""OFA: one sequence-to-sequence model for images and text (arXiv 2202.03052)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofa.config import OFAConfig
from ofa.decoder import Decoder
from ofa.encoder import Encoder
from ofa.features import features_of_layers


@dataclass
class OFAOutput:
    """Logits [B, T, V] and, on request, the states and attention probabilities of both stacks (lists by layer)."""

    logits: Tensor
    encoder_last_hidden_state: Tensor
    encoder_hidden_states: list[Tensor] | None
    decoder_hidden_states: list[Tensor] | None
    encoder_attentions: list[Tensor] | None
    decoder_attentions: list[Tensor] | None
    cross_attentions: list[Tensor] | None


class OFAModel(nn.Module):
    """Encoder, decoder, and one embedding matrix tied between both and the output.

    >>> model = OFAModel(OFAConfig.from_name("micro")).eval()
    >>> model(torch.tensor([[0, 5, 2]]), decoder_input_ids=torch.tensor([[0, 7]])).logits.shape
    torch.Size([1, 2, 59457])
    """

    def __init__(self, config: OFAConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, self.encoder.embed_tokens)
        self.apply(self._initialise)
        for stack in (self.encoder, self.decoder):
            for table in (*stack.token_rel_pos_table_list, *stack.image_rel_pos_table_list):
                nn.init.zeros_(table.weight)

    def forward(
        self,
        input_ids: Tensor,
        patch_images: Tensor | None = None,
        patch_masks: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        code_masks: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> OFAOutput:
        """Logits of every target position over the vocabulary; training and generation call the parts instead.

        Args:
            input_ids: [B, L], `<s>` text `</s>`, right-padded with 1.
            patch_images: [B, 3, h, w], normalised; None if no sample has an image.
            patch_masks: [B] booleans, False where a sample has no image; None if all have.
            decoder_input_ids: [B, T], `<s>` and the target without its `</s>`; None is only `<s>`.
            code_masks: [B] booleans, True where a sample's target is a sequence of image codes.

        Raises:
            UserError: an image or text is longer than the model's position tables.
        """
        if decoder_input_ids is None:
            decoder_input_ids = torch.zeros_like(input_ids[:, :1])
        stacks = {"encoder": self.config.encoder_layers, "decoder": self.config.decoder_layers}
        hidden = [features_of_layers(stack, "hidden", n) for stack, n in stacks.items()]
        stacks["cross"] = self.config.decoder_layers
        maps = [features_of_layers(stack, "attention", n) for stack, n in stacks.items()]
        requested = (hidden if output_hidden_states else []) + (maps if output_attentions else [])
        wanted = {feature for features in requested for feature in features}
        encoded = self.encoder(input_ids, patch_images, patch_masks, wanted)
        decoded = self.decoder(decoder_input_ids, encoded, code_masks, wanted)
        found = encoded.features | decoded.features
        return OFAOutput(
            self.logits(decoded.last_hidden_state),
            encoded.last_hidden_state,
            *([found[f] for f in features] if features in requested else None for features in (*hidden, *maps)),
        )

    def logits(self, hidden: Tensor, allowed_ids: Tensor | None = None) -> Tensor:
        """Logits [..., V] of decoder states [..., D]; or [..., A] of only `allowed_ids` [A], at A / V of the cost."""
        weight = self.decoder.output_projection.weight
        return F.linear(hidden, weight if allowed_ids is None else weight[allowed_ids])

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the layers' activations in the backward pass instead of keeping them: less memory, more time."""
        # The backbone keeps its own: its batch norms would count a recomputed batch twice in their statistics.
        self.encoder.gradient_checkpointing = enabled
        self.decoder.gradient_checkpointing = enabled

    def _initialise(self, module: nn.Module) -> None:
        """Linear and embedding weights normal, biases and the padding row 0, convolutions He-normal."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.init_std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].data)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
