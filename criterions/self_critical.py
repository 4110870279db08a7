"""Self-critical training (SCST, arXiv 1612.00563): a sequence with a higher reward than its rivals becomes likelier."""

from __future__ import annotations

from torch import Tensor

from criterions.base import Loss, Targets, log_probabilities


class SelfCritical:
    """-(reward - baseline) times the log-probability of each token of a hypothesis, averaged over the tokens.

    As published, the baseline is the mean reward of the other hypotheses for the same image.
    """

    passes = 1
    needs_rewards = True

    def __call__(self, logits: Tensor, targets: Targets, rewards: Tensor) -> Loss:
        """The loss of K hypotheses for each of B samples, K at least 2.

        Args:
            logits: [N, V], of the tokens of all hypotheses.
            targets: of [B * K, T], the K hypotheses of a sample in consecutive rows.
            rewards: [B, K].
        """
        log_p = log_probabilities(logits, None).gather(-1, targets.columns[:, None])[:, 0]
        loss = -(targets.of_tokens(advantages(rewards).to(log_p.dtype).flatten()) * log_p).sum()
        # The mean reward of a hypothesis, in the unit in which the caller divides it by the number of tokens.
        reward = rewards.mean().to(log_p) * len(log_p)
        return Loss(loss, len(log_p), {"loss": loss, "reward": reward})


def advantages(rewards: Tensor) -> Tensor:
    """Each reward of rewards [B, K] minus the mean of the K - 1 others in its row."""
    others = rewards.shape[1] - 1
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / others
