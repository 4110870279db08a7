"""How often classes were told apart: `EntailmentAccuracy`."""

import torch
from torch import Tensor
from torchmetrics import Metric


class EntailmentAccuracy(Metric):
    """Accuracy over all samples and over those of each true class, from one confusion matrix.

    The state is a sum over samples, so the result over several processes is exactly the one of a single process.

    Args:
        classes: their names, in the order of their numbers.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("confusion", torch.zeros(len(classes), len(classes), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, answered: int, true: int | None) -> None:
        """Counts one sample; one whose true class is None is not scored."""
        if true is not None:
            self.confusion[true, answered] += 1

    def compute(self) -> dict[str, Tensor]:
        """`accuracy`, and `accuracy_<class>` of each class there is, in 0..1; nothing where nothing is scored."""
        right, samples = self.confusion.diagonal(), self.confusion.sum(1)
        if not samples.any():
            return {}
        by_class = {f"accuracy_{name}": right[i] / samples[i] for i, name in enumerate(self.classes) if samples[i] > 0}
        return {"accuracy": right.sum() / samples.sum(), **by_class}

    def confusion_by_name(self) -> dict[str, dict[str, int]]:
        """Samples by true class and by answered class."""
        rows = self.confusion.tolist()
        return {true: dict(zip(self.classes, row, strict=True)) for true, row in zip(self.classes, rows, strict=True)}
