"""Samples and padded batches.

Shapes: B batch, L source, T target, P prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ofa.padding import pad
from ofa.vocabulary import BOS, PAD


@dataclass(frozen=True)
class Sample:
    """One row, ready for the model."""

    id: str
    source: list[int]  # <s> prompt </s>
    target: list[int]  # answer </s>; empty for rows without an answer
    image: Tensor | None  # [3, h, w]
    truth: Any  # for the task's metric
    prefix: Sequence[int] = ()  # decoder input between <s> and the answer; without loss
    weight: float = 1.0  # of the loss
    key: int = 0  # identifies row and view, see TaskDataset
    notes: tuple[str, ...] = ()  # harmless repairs such as "box clipped to the image", for the report of the epoch


@dataclass
class Batch:
    """Samples, right-padded with <pad>."""

    ids: list[str]
    keys: list[int]
    input_ids: Tensor  # [B, L]
    patch_images: Tensor | None  # [B, 3, h, w], zeros where a sample has no image; None where no sample has one
    patch_masks: Tensor  # [B] bool: which samples have an image
    prefix_tokens: Tensor | None  # [B, P], decoder prompts after <s>; None where no sample has one
    decoder_input_ids: Tensor  # [B, T]: <s>, the sample's prefix, then the answer
    target: Tensor  # [B, T]: the answer and </s>, with <pad> at the positions of the prefix
    weights: Tensor  # [B]
    truths: list[Any]
    notes: list[str]  # of its samples, and "skipped ..." for every skipped row

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on `device`; Lightning calls this."""
        return self._map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; the DataLoader's pinning thread calls this."""
        return self._map_tensors(Tensor.pin_memory)

    @property
    def inputs(self) -> dict[str, Tensor | None]:
        """The encoder inputs, as `generate` expects them."""
        return {"input_ids": self.input_ids, "patch_images": self.patch_images, "patch_masks": self.patch_masks}

    @property
    def prefixes(self) -> list[list[int]]:
        """Each sample's prefix tokens, without padding."""
        if self.prefix_tokens is None:
            return [[] for _ in self.ids]
        return [[token for token in row if token != PAD] for row in self.prefix_tokens.tolist()]

    def with_targets(self, answers: Sequence[Sequence[int]]) -> Batch:
        """The same sources and prefixes with other answers, each ending in `</s>`."""
        decoder_input_ids, target = _decoder_rows(self.prefixes, answers)
        device = self.target.device
        return replace(self, decoder_input_ids=decoder_input_ids.to(device), target=target.to(device))

    def twice(self) -> Batch:
        """The batch concatenated with itself: rows b and b + B are the same sample."""
        doubled = self._map_tensors(lambda tensor: torch.cat([tensor, tensor]))
        return replace(doubled, ids=self.ids * 2, keys=self.keys * 2, truths=self.truths * 2)

    def _map_tensors(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self, **{name: function(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """The samples as one batch, in their order; no samples give a batch of length 0."""
    decoder_input_ids, target = _decoder_rows([s.prefix for s in samples], [s.target for s in samples])
    images = [sample.image for sample in samples]
    blank = next((torch.zeros_like(image) for image in images if image is not None), None)
    return Batch(
        ids=[sample.id for sample in samples],
        keys=[sample.key for sample in samples],
        input_ids=pad([sample.source for sample in samples]),
        patch_images=None if blank is None else torch.stack([blank if image is None else image for image in images]),
        patch_masks=torch.tensor([image is not None for image in images], dtype=torch.bool),
        prefix_tokens=pad([s.prefix for s in samples]) if any(s.prefix for s in samples) else None,
        decoder_input_ids=decoder_input_ids,
        target=target,
        weights=torch.tensor([sample.weight for sample in samples]),
        truths=[sample.truth for sample in samples],
        notes=[note for sample in samples for note in sample.notes],
    )


def _decoder_rows(prefixes: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Decoder inputs and targets, [B, T] each; padding only where there is no answer."""
    pairs = list(zip(prefixes, answers, strict=True))
    read = pad([[BOS, *prefix, *answer[:-1]] if answer else [] for prefix, answer in pairs])
    return read, pad([[PAD] * len(prefix) + [*answer] if answer else [] for prefix, answer in pairs])
