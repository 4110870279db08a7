"""Self-critical training (SCST, arXiv 1612.00563): what scores better than its rivals becomes likelier."""

from __future__ import annotations

import torch
from torch import Tensor

from criterions.label_smoothing import Loss
from ofa.model import OFAModel
from ofa.vocabulary import PAD


class SelfCritical:
    """-(reward - baseline) times the log-probability of each token of a hypothesis, averaged over the tokens.

    A hypothesis' baseline is the mean reward of the other hypotheses for the same image, as in the published system.
    """

    def __call__(self, model: OFAModel, hidden: Tensor, target: Tensor, rewards: Tensor) -> Loss:
        """The loss of K hypotheses for each of B images.

        Args:
            model: gives the logits.
            hidden: [B * K, T, D], the decoder's states over the hypotheses, those of an image side by side.
            target: [B * K, T], the hypotheses, padded with 1.
            rewards: [B, K], K at least 2.
        """
        valid = target != PAD
        log_p = torch.log_softmax(model.logits(hidden[valid]).float(), -1).gather(-1, target[valid][:, None])[:, 0]
        advantage = advantages(rewards).to(log_p.dtype).flatten()[:, None].expand_as(target)[valid]
        loss = -(advantage * log_p).sum()
        # The mean reward of a hypothesis, in the unit in which the caller divides it by the number of tokens.
        reward = rewards.mean().to(log_p) * len(log_p)
        return Loss(loss, len(log_p), {"loss": loss, "reward": reward})


def advantages(rewards: Tensor) -> Tensor:
    """Each reward of rewards [B, K] less the mean of the K - 1 others of its row."""
    others = rewards.shape[1] - 1
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / others
