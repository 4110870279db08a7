"""Frozen parts of the network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ofa.model import OFAModel


@dataclass(frozen=True)
class Freezing:
    """Which parts are frozen.

    Attributes:
        backbone: the whole image branch before its projection, running statistics included.
        batch_norm: the backbone's running statistics and affine parameters only.
        embeddings: the token embeddings, which are also the output projection.
    """

    backbone: bool = False
    batch_norm: bool = False
    embeddings: bool = False

    def apply(self, model: OFAModel) -> None:
        """Freeze the chosen parameters, and those of image codes, which no target contains."""
        for module in self._frozen_images(model):
            module.requires_grad_(False)
        for module in model.decoder.parts_of_image_codes():
            module.requires_grad_(False)  # otherwise several processes would wait for their gradients
        if self.embeddings:
            model.encoder.embed_tokens.requires_grad_(False)

    def keep_in_evaluation_mode(self, model: OFAModel) -> None:
        """To be called after each change of mode, so that running statistics of frozen parts do not change."""
        for module in self._frozen_images(model):
            module.eval()

    def _frozen_images(self, model: OFAModel) -> list[nn.Module]:
        if self.backbone:
            return [model.encoder.embed_images]
        if self.batch_norm:
            return [module for module in model.encoder.embed_images.modules() if isinstance(module, nn.BatchNorm2d)]
        return []
