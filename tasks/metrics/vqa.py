"""How well questions were answered: `VQAScore`."""

import torch
from torch import Tensor
from torchmetrics import Metric


class VQAScore(Metric):
    """The mean, over questions, of the confidence that people gave to the predicted answer.

    The states are sums of whole numbers, so the result over several processes is exactly the one of a single process.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("millionths", torch.tensor(0), dist_reduce_fx="sum")  # of a point
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, confidence: float | None) -> None:
        """Counts one question; None is one whose answers are not known."""
        if confidence is not None:
            self.millionths += round(confidence * 1_000_000)
            self.samples += 1

    def compute(self) -> dict[str, Tensor]:
        """`vqa_score` in 0..1; nothing where nothing is scored."""
        return {"vqa_score": self.millionths / self.samples / 1_000_000} if self.samples else {}
