"""Accuracies of boxes, classes and answers.

Their states are sums over samples, so the result over several processes is exactly that of a single process.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from ofa.images import box_iou


class BoxAccuracy(Metric):
    """Acc@0.5, the share of samples whose IoU with the truth is at least 0.5, and the mean IoU."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("iou", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Counts the boxes [N, 4] predicted for N samples against the true ones [N, 4], both in the same pixels."""
        iou = box_iou(predicted, true)
        self.hits += (iou >= 0.5).sum()
        self.iou += iou.sum()
        self.samples += len(iou)

    def compute(self) -> dict[str, Tensor]:
        """`acc@0.5` and `mean_iou`, both in 0..1."""
        return {"acc@0.5": self.hits / self.samples, "mean_iou": self.iou / self.samples}


class EntailmentAccuracy(Metric):
    """Accuracy over all samples and over those of each true class, from one confusion matrix of the named classes."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("confusion", torch.zeros(len(classes), len(classes), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: int, true: int | None) -> None:
        """Counts one sample; one whose true class is None is not scored."""
        if true is not None:
            self.confusion[true, predicted] += 1

    def compute(self) -> dict[str, Tensor]:
        """`accuracy`, and `accuracy_<class>` of each class with samples, in 0..1; nothing where nothing is scored."""
        right, samples = self.confusion.diagonal(), self.confusion.sum(1)
        if not samples.any():
            return {}
        by_class = {f"accuracy_{name}": right[i] / samples[i] for i, name in enumerate(self.classes) if samples[i] > 0}
        return {"accuracy": right.sum() / samples.sum(), **by_class}

    def confusion_by_name(self) -> dict[str, dict[str, int]]:
        """Samples by true class and by predicted class."""
        rows = self.confusion.tolist()
        return {true: dict(zip(self.classes, row, strict=True)) for true, row in zip(self.classes, rows, strict=True)}


class VQAScore(Metric):
    """The mean, over questions, of the confidence that people gave to the predicted answer."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("millionths", torch.tensor(0), dist_reduce_fx="sum")  # whole numbers, whose sum is exact
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, confidence: float | None) -> None:
        """Counts one question; None is one whose answers are not known."""
        if confidence is not None:
            self.millionths += round(confidence * 1_000_000)
            self.samples += 1

    def compute(self) -> dict[str, Tensor]:
        """`vqa_score` in 0..1; nothing where nothing is scored."""
        return {"vqa_score": self.millionths / self.samples / 1_000_000} if self.samples else {}
