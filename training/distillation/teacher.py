"""The teacher of a distillation: one model, or several whose logits are averaged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from criterions.base import Targets, log_probabilities
from criterions.distillation.criterion import States
from data.batch import Batch
from ofa.decoder import DecoderOutput
from ofa.encoder import EncoderOutput
from ofa.features import Feature
from ofa.generation.step_decoder import average
from ofa.model import OFAModel

PRECISIONS = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16}


class Teacher:
    """Computes exactly what the losses need, without gradient, in evaluation mode and in its own precision.

    Not a torch module, so that no optimizer, mode change or checkpoint of the student affects the weights.

    Args:
        models: one, or several whose logits are averaged.
        features: the intermediate states to return; of one model only.
        mean_of: what is averaged over several models: probabilities over the allowed ids, of which the logarithm is
            returned, or logits. None: no logits are needed.
        precision: of weights and computation, a name in PRECISIONS.
        image_size: pixels of a side of the images of the models, resized from those of the student; None: the same.
    """

    def __init__(
        self,
        models: Sequence[OFAModel],
        features: Collection[Feature] = (),
        mean_of: Literal["probabilities", "logits"] | None = "probabilities",
        precision: str = "32-true",
        image_size: int | None = None,
    ) -> None:
        self.dtype = PRECISIONS[precision]
        self.models = [model.to(self.dtype).eval().requires_grad_(False) for model in models]
        self.features = features
        self.mean_of = mean_of
        self.image_size = image_size

    def __deepcopy__(self, memo: dict) -> Teacher:
        """The same object: a moving average copies the training module, and only the student changes."""
        return self

    def to(self, device: torch.device) -> None:
        for model in self.models:
            model.to(device)

    def __call__(self, batch: Batch, targets: Targets) -> States:
        """Features of the source and the decoder input of a batch, and logits of its N target tokens, as configured."""
        return self.states(batch, targets, self.encode(batch))

    @torch.no_grad()
    def encode(self, batch: Batch) -> list[EncoderOutput]:
        """The encoder output of each model, for any number of decoder inputs."""
        with self._own_precision(batch):
            images = self._resized(batch.patch_images)
            return [model.encoder(batch.input_ids, images, batch.patch_masks, self.features) for model in self.models]

    @torch.no_grad()
    def states(self, batch: Batch, targets: Targets, encoded: Sequence[EncoderOutput]) -> States:
        """The same as a call, from encoder outputs."""
        features = encoded[0].features
        if self.mean_of is None and all(feature.stack == "encoder" for feature in self.features):
            return States(None, features)
        with self._own_precision(batch):
            decoded = self._decode(batch, encoded, self.features)
            logits = None if self.mean_of is None else self._mean(self.mean_of, decoded, targets)
        return States(logits, features | decoded[0].features)

    @torch.no_grad()
    def probabilities(self, batch: Batch, targets: Targets, encoded: Sequence[EncoderOutput]) -> Tensor:
        """Only logits [N, A], of the mean probabilities, whatever `mean_of` is."""
        with self._own_precision(batch):
            return self._mean("probabilities", self._decode(batch, encoded, ()), targets)

    def _own_precision(self, batch: Batch) -> AbstractContextManager:
        """The precision of the weights, without the autocast of the student."""
        return torch.autocast(batch.input_ids.device.type, enabled=False)

    def _decode(
        self, batch: Batch, encoded: Sequence[EncoderOutput], wanted: Collection[Feature]
    ) -> list[DecoderOutput]:
        pairs = zip(self.models, encoded, strict=True)
        return [model.decoder(batch.decoder_input_ids, sources, wanted=wanted) for model, sources in pairs]

    def _mean(self, of: str, decoded: Sequence[DecoderOutput], targets: Targets) -> Tensor:
        """Logits [N, A], of several models the mean."""
        pairs = zip(self.models, decoded, strict=True)
        logits = [model.logits(one.last_hidden_state[targets.valid], targets.ids) for model, one in pairs]
        if len(logits) == 1:
            return logits[0]
        if of == "probabilities":
            return average([log_probabilities(one, targets.allowed) for one in logits])
        return torch.stack(logits).float().mean(0)

    def _resized(self, images: Tensor | None) -> Tensor | None:
        """[B, 3, h, w] at the size and precision of the teacher, with the augmentation of the student."""
        if images is None or self.image_size in (None, images.shape[-1]):
            return None if images is None else images.to(self.dtype)
        size = (self.image_size, self.image_size)
        return F.interpolate(images, size, mode="bicubic", antialias=True).to(self.dtype)
