"""Whether weights fit a model, and what is done where they nearly do: `Fit`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ofa.checkpoint.content import Checkpoint
from ofa.checkpoint.names import COUNTER, EMBEDDING, POSITIONS, TIED
from ofa.errors import UserError
from ofa.model import OFAModel

log = logging.getLogger(__name__)

SHOWN = 3  # names in a message


@dataclass
class LoadReport:
    """How the weights of a checkpoint fit a model.

    Attributes:
        missing: weights that only the model has.
        unexpected: weights that only the checkpoint has.
        misfits: sentences about weights of another shape.
        resized: by name, the shape in the model of tables that have another number of rows.
        counters: counts of batches that are not in the checkpoint and are set to 0.
    """

    checkpoint: Checkpoint
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    resized: dict[str, torch.Size] = field(default_factory=dict)
    counters: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, checkpoint: Checkpoint, model: OFAModel) -> LoadReport:
        """By names and shapes: the weights of neither are looked at."""
        fit, stored = cls(checkpoint), checkpoint.listing.stored
        expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in TIED}
        fit.unexpected = [name for name in stored if name not in expected]
        for name, shape in expected.items():
            if name not in stored:
                (fit.counters if name.endswith(COUNTER) else fit.missing).append(name)
            elif stored[name].shape != shape:
                fit._compare(name, stored[name].shape, shape)
        return fit

    def check(self, remedy: str) -> None:
        """Raises UserError, with what to do about it, where weights are missing, unexpected or of another shape."""
        found = [
            *self.misfits[:1],
            *([f"it lacks {listed(self.missing)}"] if self.missing else []),
            *([f"it has {listed(self.unexpected)}, which the model has not"] if self.unexpected else []),
        ]
        if found:
            raise UserError(f"{self.checkpoint.path} holds a model of another size: {'; '.join(found)}; {remedy}")

    def tensors(self, std: float) -> Iterator[tuple[str, Tensor]]:
        """Each weight of the model but the tied ones, in float32.

        Args:
            std: of the rows that position tables get.
        """
        for name, tensor in self.checkpoint.tensors():
            shape = self.resized.get(name)
            if shape is not None:
                tensor = _resized(name, tensor, shape, shape[1] ** -0.5 if name == EMBEDDING else std)
            yield name, tensor
        for name in self.counters:
            yield name, torch.tensor(0)

    def _compare(self, name: str, found: tuple[int, ...], expected: torch.Size) -> None:
        same_width = len(found) == 2 and found[1:] == expected[1:]
        if same_width and (POSITIONS.fullmatch(name) or (name == EMBEDDING and found[0] < expected[0])):
            self.resized[name] = expected
        elif same_width and name == EMBEDDING:
            self.misfits.append(f"{name} has {found[0]} ids, the model has {expected[0]}")
        else:
            self.misfits.append(f"{name} is {list(found)}, the model has {list(expected)}")


def _resized(name: str, tensor: Tensor, shape: torch.Size, std: float) -> Tensor:
    """The first rows of a table, and behind them new ones; always the same, and torch's random state stays."""
    kept = min(len(tensor), shape[0])
    log.info("%s: %d rows of %d are taken, %d are new", name, kept, len(tensor), shape[0] - kept)
    rows = torch.empty(shape).normal_(std=std, generator=torch.Generator().manual_seed(0))
    rows[:kept] = tensor[:kept]
    return rows


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
