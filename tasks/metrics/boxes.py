"""How well boxes were found: `BoxAccuracy`."""

import torch
from torch import Tensor
from torchmetrics import Metric

from ofa.images import box_iou

THRESHOLD = 0.5


class BoxAccuracy(Metric):
    """Acc@0.5, the share of samples whose IoU with the truth is at least 0.5, and the mean IoU.

    The states are sums over samples, so the result over several processes is exactly the one of a single process.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("iou", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Counts the boxes [N, 4] predicted for N samples against the true ones [N, 4], both in the same pixels."""
        iou = box_iou(predicted, true)
        self.hits += (iou >= THRESHOLD).sum()
        self.iou += iou.sum()
        self.samples += len(iou)

    def compute(self) -> dict[str, Tensor]:
        """`acc@0.5` and `mean_iou`, both in 0..1."""
        return {"acc@0.5": self.hits / self.samples, "mean_iou": self.iou / self.samples}
