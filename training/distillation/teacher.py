"""The teacher of a distillation: what the losses need of one model or several, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from criterions.distillation.states import States
from criterions.label_smoothing import Targets, log_probabilities
from data.batch import Batch
from ofa.features import Feature
from ofa.generation.ensemble import average
from ofa.model import OFAModel

PRECISIONS = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16}


class Teacher:
    """Models that answer without gradient, in evaluation mode and in a precision of their own.

    Not a torch module, so that no optimizer, change of mode or checkpoint of the student's reaches the weights.

    Args:
        models: one, or several whose logits are averaged.
        features: the intermediate states to return; of one model only.
        mean_of: what is averaged of several models, or None where no logits are wanted: probabilities, over the
            allowed ids, whose logarithm is returned then; or the logits themselves.
        precision: of weights and computation, a name in PRECISIONS.
        image_size: pixels of a side of the images the models see, resized from the student's; None: the student's.
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
        """Itself, since it never changes: a moving average copies the training module, and means the student."""
        return self

    def of_probabilities(self) -> Teacher:
        """The same models, asked for their mean probabilities and nothing else."""
        other = copy.copy(self)
        other.features, other.mean_of = (), "probabilities"
        return other

    def to(self, device: torch.device) -> None:
        for model in self.models:
            model.to(device)

    @torch.no_grad()
    def __call__(self, batch: Batch, targets: Targets) -> States:
        """What is wanted, of the source and the decoder inputs of a batch, and of its N target tokens."""
        with torch.autocast(batch.input_ids.device.type, enabled=False):  # the precision is the weights'
            images = self._resized(batch.patch_images)
            states = [self._states(model, batch, images, targets) for model in self.models]
        if len(states) == 1:
            return states[0]
        logits = [state.logits for state in states]
        if self.mean_of == "probabilities":
            return States(average([log_probabilities(one, targets.allowed) for one in logits]), {})
        return States(torch.stack(logits).float().mean(0), {})

    def _states(self, model: OFAModel, batch: Batch, images: Tensor | None, targets: Targets) -> States:
        if self.mean_of is None and not self.features:  # the student learns from what it samples alone
            return States(None, {})
        encoded = model.encoder(batch.input_ids, images, batch.patch_masks, self.features)
        if self.mean_of is None and all(feature.stack == "encoder" for feature in self.features):
            return States(None, encoded.features)
        decoded = model.decoder(batch.decoder_input_ids, encoded, wanted=self.features)
        features = encoded.features | decoded.features
        if self.mean_of is None:
            return States(None, features)
        return States(model.logits(decoded.last_hidden_state[targets.valid], targets.ids), features)

    def _resized(self, images: Tensor | None) -> Tensor | None:
        """[B, 3, h, w] at the teacher's size and precision: the same picture, augmented alike."""
        if images is None or self.image_size in (None, images.shape[-1]):
            return None if images is None else images.to(self.dtype)
        size = (self.image_size, self.image_size)
        return F.interpolate(images, size, mode="bicubic", antialias=True).to(self.dtype)
