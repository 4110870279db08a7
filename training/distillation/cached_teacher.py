"""A teacher whose logits are computed once for each sample."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch

from criterions.base import Targets
from criterions.distillation.states import States
from data.batch import Batch
from ofa.errors import UserError
from ofa.vocabulary import PAD
from training.distillation.cache import REMEDY, TeacherCache
from training.distillation.cache_records import pack, unpack
from training.distillation.teacher import Teacher


class CachedTeacher:
    """Replaces a Teacher of logits by its cache. The teacher is in memory only while records are missing.

    The logits are always read from the cache, so that a run that fills it trains on the same values as later ones.

    Args:
        cache: of the logits; its fingerprint is that of the teacher.
        load: loads the teacher.
        top_k: number of ids stored for each token; None: all allowed ids.
    """

    def __init__(self, cache: TeacherCache, load: Callable[[], Teacher], top_k: int | None) -> None:
        self.cache, self.load, self.top_k = cache, load, top_k
        self.teacher: Teacher | None = None
        self.device = torch.device("cpu")

    def __deepcopy__(self, memo: dict) -> CachedTeacher:
        """The same object, as for Teacher."""
        return self

    def to(self, device: torch.device) -> None:
        self.device = device
        if self.teacher is not None:
            self.teacher.to(device)

    def __call__(self, batch: Batch, targets: Targets) -> States:
        """The logits of the N target tokens of a batch.

        Raises:
            UserError: a sample differs from the one that its record was computed from.
        """
        checks = _checks(batch)
        missing = [i for i, is_there in enumerate(self.cache.has(batch.keys)) if not is_there]
        if missing:
            records = pack(self._teacher_logits(batch, targets), targets, self.top_k)
            self.cache.write(*([column[i] for i in missing] for column in (batch.keys, checks, records)))
            if len(self.cache) == self.cache.n_keys:
                self.teacher = None
        for name, check, stored in zip(batch.ids, checks, self.cache.checks(batch.keys), strict=True):
            if check != stored:
                raise UserError(
                    f"sample {name} has other tokens than when distill.cache={self.cache.folder} was filled; {REMEDY}"
                )
        records = [self.cache.read(key) for key in batch.keys]
        return States(unpack(records, targets, self.top_k), {})

    def _teacher_logits(self, batch: Batch, targets: Targets) -> torch.Tensor:
        """[N, A]."""
        if self.teacher is None:
            self.teacher = self.load()
            self.teacher.to(self.device)
        return self.teacher(batch, targets).logits


def _checks(batch: Batch) -> list[int]:
    """A checksum of each sample's id and tokens, the same in every batch."""
    tokens = [tensor.cpu().numpy() for tensor in (batch.input_ids, batch.decoder_input_ids, batch.target)]
    checks = []
    for name, *rows in zip(batch.ids, *tokens, strict=True):
        check = zlib.crc32(name.encode())
        for row in rows:
            check = zlib.crc32(row[row != PAD].tobytes(), check)
        checks.append(check)
    return checks
