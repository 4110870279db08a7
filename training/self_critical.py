"""The self-critical training step: generate, reward, learn."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.label_smoothing import Loss
from criterions.self_critical import SelfCritical
from data.batch import Batch
from ofa.errors import UserError
from ofa.generation import GenerationOptions, Hypothesis
from ofa.model import OFAModel
from ofa.padding import pad
from ofa.vocabulary import BOS
from tasks.caption import References, SelfCriticalCaption
from tasks.metrics.cider import CiderD, with_end
from training.freezing import Freezing
from training.module import TrainingModule
from training.optim import Optim


class SelfCriticalModule(TrainingModule):
    """Rewards the captions of a beam search by CIDEr-D; all else as its base class does.

    Args:
        model, task, generation, criterion, optim, freezing, on_nonfinite: as for TrainingModule.
        reward: CIDEr-D with the document frequencies of the training corpus.

    Raises:
        UserError: a beam of one hypothesis, which has no rival to be compared with.
    """

    def __init__(
        self,
        model: OFAModel,
        task: SelfCriticalCaption,
        generation: GenerationOptions,
        criterion: SelfCritical,
        optim: Optim,
        freezing: Freezing,
        reward: CiderD,
        *,
        on_nonfinite: str = "stop",
    ) -> None:
        if generation.beam_size < 2:
            raise UserError(
                f"generation.beam_size={generation.beam_size}: self-critical training compares the hypotheses for an "
                "image with each other; set at least 2"
            )
        super().__init__(model, task, generation, criterion, optim, freezing, on_nonfinite=on_nonfinite)
        self.reward = reward

    def loss(self, batch: Batch) -> Loss:
        with self.answering():
            hypotheses = self.generate(batch)
        rewards = torch.stack([self._rewards(*pair) for pair in zip(hypotheses, batch.truths, strict=True)])
        rows = [h.tokens for found in hypotheses for h in found]
        target, previous = pad(rows), pad([[BOS, *tokens[:-1]] for tokens in rows])
        # Encoded once: repeating a picture would change neither its states nor the statistics of a batch norm.
        encoded = self.model.encoder(batch.input_ids, batch.patch_images, batch.patch_masks)
        encoded = encoded.repeat_interleave(self.generation.beam_size)
        hidden = self.model.decoder(previous.to(self.device), encoded).last_hidden_state
        return self.criterion(self.model, hidden, target.to(self.device), rewards.to(self.device))

    def _rewards(self, found: list[Hypothesis], truth: References) -> Tensor:
        """[K], of the hypotheses for one image."""
        captions = [with_end(self.task.decode(h, truth).caption) for h in found]
        references = [with_end(caption) for caption in truth.captions]
        return torch.from_numpy(self.reward.scores(captions, [references] * len(captions))).float()
