"""What travels from a row to the model: samples, and the padded batch made of them.

Letters in shapes: B batch, L source, T target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ofa.vocabulary import BOS, PAD


@dataclass(frozen=True)
class Sample:
    """One row, ready for the model."""

    id: str
    source: list[int]  # <s> prompt </s>
    target: list[int]  # answer </s>; empty for rows without an answer
    image: Tensor | None  # [3, h, w]
    truth: Any  # what the task's metric needs; not looked into here
    notes: tuple[str, ...] = ()  # kinds of harmless repairs, such as "box clipped to the image", for the epoch's report


@dataclass
class Batch:
    """Samples side by side, right-padded with <pad>."""

    ids: list[str]
    input_ids: Tensor  # [B, L]
    patch_images: Tensor | None  # [B, 3, h, w], zeros where a sample has no image; None where no sample has one
    patch_masks: Tensor  # [B] bool: which samples have an image
    decoder_input_ids: Tensor  # [B, T]: <s>, then the target without its last token
    target: Tensor  # [B, T]
    truths: list[Any]
    notes: list[str]  # of its samples, and "skipped ..." for every row that was left out

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on `device`; Lightning calls this."""
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; the DataLoader's pinning thread calls this."""
        return self._map_tensors(Tensor.pin_memory)

    def _map_tensors(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            input_ids=function(self.input_ids),
            patch_images=None if self.patch_images is None else function(self.patch_images),
            patch_masks=function(self.patch_masks),
            decoder_input_ids=function(self.decoder_input_ids),
            target=function(self.target),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """The samples as one batch, in their order; none at all give a batch of length 0."""
    return Batch(
        ids=[sample.id for sample in samples],
        input_ids=pad([sample.source for sample in samples]),
        patch_images=_stack_images([sample.image for sample in samples]),
        patch_masks=torch.tensor([sample.image is not None for sample in samples], dtype=torch.bool),
        decoder_input_ids=pad([[BOS, *sample.target[:-1]] if sample.target else [] for sample in samples]),
        target=pad([sample.target for sample in samples]),
        truths=[sample.truth for sample in samples],
        notes=[note for sample in samples for note in sample.notes],
    )


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids as one int64 tensor [B, length of the longest], filled up with <pad> on the right."""
    padded = torch.full((len(rows), max(map(len, rows), default=0)), PAD)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded


def _stack_images(images: Sequence[Tensor | None]) -> Tensor | None:
    present = [image for image in images if image is not None]
    if not present:
        return None
    blank = torch.zeros_like(present[0])
    return torch.stack([blank if image is None else image for image in images])
