"""AdamW and the learning-rate schedules of the published recipes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ofa.errors import UserError


@dataclass(frozen=True)
class Optim:
    """AdamW (arXiv 1711.05101) with linear warmup, then polynomial or cosine decay to `end_lr` at the last step.

    Attributes:
        lr: the highest learning rate.
        weight_decay: decoupled.
        decay_1d: whether weight decay includes biases, norms and other 1-D parameters, as in the published runs.
        decay: "polynomial" (linear with power 1) or "cosine".
        warmup_ratio: warmup as a fraction of all steps, at least one step if not 0.
        warmup_steps: warmup as a number of steps. At most one of the two is set.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    decay_1d: bool = True
    decay: Literal["polynomial", "cosine"] = "polynomial"
    power: float = 1.0
    end_lr: float = 0.0
    warmup_ratio: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.lr <= 0 or not 0 <= self.end_lr <= self.lr:
            raise UserError(
                f"optim.lr={self.lr} and optim.end_lr={self.end_lr} do not fit: lr has to be above 0, and end_lr "
                "between 0 and lr"
            )
        if self.decay not in ("polynomial", "cosine"):
            raise UserError(f"optim.decay={self.decay!r} is neither 'polynomial' nor 'cosine'")
        if not 0 <= self.warmup_ratio < 1 or self.warmup_steps < 0:
            raise UserError(
                f"optim.warmup_ratio={self.warmup_ratio} must be in [0, 1) and optim.warmup_steps={self.warmup_steps} "
                f"not negative"
            )
        if self.warmup_ratio and self.warmup_steps:
            raise UserError("optim.warmup_ratio and optim.warmup_steps are both set; set one of them to 0")

    def optimizer(self, model: nn.Module, fused: bool = True) -> AdamW:
        """AdamW over the trainable parameters; `fused` is faster, but Lightning cannot clip it in mixed precision."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        decayed = {"params": [p for p in trainable if self.decay_1d or p.ndim > 1]}
        not_decayed = {"params": [p for p in trainable if not self.decay_1d and p.ndim <= 1], "weight_decay": 0.0}
        groups = [group for group in (decayed, not_decayed) if group["params"]]
        return AdamW(groups, self.lr, self.betas, self.eps, self.weight_decay, fused=fused)

    def schedule(self, optimizer: Optimizer, steps: int) -> LambdaLR:
        """The schedule over a run of `steps` optimizer steps."""
        return LambdaLR(optimizer, lambda step: self.factor(step, steps))

    def factor(self, step: int, steps: int) -> float:
        """The factor of `lr` at step 0, 1, ..., steps - 1."""
        warmup = max(1, round(self.warmup_ratio * steps)) if self.warmup_ratio else self.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        left = (1 - progress) ** self.power if self.decay == "polynomial" else (1 + math.cos(math.pi * progress)) / 2
        end = self.end_lr / self.lr
        return end + (1 - end) * left
