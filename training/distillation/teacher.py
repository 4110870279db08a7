"""The teacher of a distillation: one model, or several whose logits are averaged; or a cache of their logits.

A record of the cache holds a float32 number for each token, then log-probabilities in float16, token by token:

- of every allowed id, in the order of the A ids; the number is the log-sum-exp of the logits, so that log-probability +
  number is the logit again. Rounding is relative to the log-probability: smallest for likely ids;
- or of the k best ids of the vocabulary, after the ids as int32; the number is the logarithm of the total probability
  of the other ids, which is spread evenly over them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from criterions.base import Targets, log_probabilities
from criterions.distillation.criterion import States
from data.batch import Batch
from ofa.decoder import DecoderOutput
from ofa.encoder import EncoderOutput
from ofa.errors import UserError
from ofa.features import Feature
from ofa.generation.step_decoder import average
from ofa.model import OFAModel
from ofa.vocabulary import PAD
from training.distillation.cache import REMEDY, TeacherCache

PRECISIONS = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16}


class Teacher:
    """Computes exactly what the losses need, without gradient, in evaluation mode and in its own precision.

    Not a torch module, so that no optimizer, mode change or checkpoint of the student affects the weights.

    Args:
        models: one, or several whose logits are averaged.
        features: the intermediate states to return; of one model only.
        mean_of: what is averaged over several models: probabilities over the allowed ids, of which the logarithm is
            returned, or logits. None: no logits are needed.
        precision: of weights and computation, a name in PRECISIONS.
        image_size: pixels of a side of the images of the models, resized from those of the student; None: the same.
    """

    def __init__(
        self,
        models: Sequence[OFAModel],
        features: Collection[Feature] = (),
        mean_of: Literal["probabilities", "logits"] | None = "probabilities",
        precision: str = "32-true",
        image_size: int | None = None,
    ) -> None:
        self.dtype = PRECISIONS[precision]
        self.models = [model.to(self.dtype).eval().requires_grad_(False) for model in models]
        self.features = features
        self.mean_of = mean_of
        self.image_size = image_size

    def __deepcopy__(self, memo: dict) -> Teacher:
        """The same object: a moving average copies the training module, and only the student changes."""
        return self

    def to(self, device: torch.device) -> None:
        for model in self.models:
            model.to(device)

    def __call__(self, batch: Batch, targets: Targets) -> States:
        """Features of the source and the decoder input of a batch, and logits of its N target tokens, as configured."""
        return self.states(batch, targets, self.encode(batch))

    @torch.no_grad()
    def encode(self, batch: Batch) -> list[EncoderOutput]:
        """The encoder output of each model, for any number of decoder inputs."""
        with self._own_precision(batch):
            images = self._resized(batch.patch_images)
            return [model.encoder(batch.input_ids, images, batch.patch_masks, self.features) for model in self.models]

    @torch.no_grad()
    def states(self, batch: Batch, targets: Targets, encoded: Sequence[EncoderOutput]) -> States:
        """The same as a call, from encoder outputs."""
        features = encoded[0].features
        if self.mean_of is None and all(feature.stack == "encoder" for feature in self.features):
            return States(None, features)
        with self._own_precision(batch):
            decoded = self._decode(batch, encoded, self.features)
            logits = None if self.mean_of is None else self._mean(self.mean_of, decoded, targets)
        return States(logits, features | decoded[0].features)

    @torch.no_grad()
    def probabilities(self, batch: Batch, targets: Targets, encoded: Sequence[EncoderOutput]) -> Tensor:
        """Only logits [N, A], of the mean probabilities, whatever `mean_of` is."""
        with self._own_precision(batch):
            return self._mean("probabilities", self._decode(batch, encoded, ()), targets)

    def _own_precision(self, batch: Batch) -> AbstractContextManager:
        """The precision of the weights, without the autocast of the student."""
        return torch.autocast(batch.input_ids.device.type, enabled=False)

    def _decode(
        self, batch: Batch, encoded: Sequence[EncoderOutput], wanted: Collection[Feature]
    ) -> list[DecoderOutput]:
        pairs = zip(self.models, encoded, strict=True)
        return [model.decoder(batch.decoder_input_ids, sources, wanted=wanted) for model, sources in pairs]

    def _mean(self, of: str, decoded: Sequence[DecoderOutput], targets: Targets) -> Tensor:
        """Logits [N, A], of several models the mean."""
        pairs = zip(self.models, decoded, strict=True)
        logits = [model.logits(one.last_hidden_state[targets.valid], targets.ids) for model, one in pairs]
        if len(logits) == 1:
            return logits[0]
        if of == "probabilities":
            return average([log_probabilities(one, targets.allowed) for one in logits])
        return torch.stack(logits).float().mean(0)

    def _resized(self, images: Tensor | None) -> Tensor | None:
        """[B, 3, h, w] at the size and precision of the teacher, with the augmentation of the student."""
        if images is None or self.image_size in (None, images.shape[-1]):
            return None if images is None else images.to(self.dtype)
        size = (self.image_size, self.image_size)
        return F.interpolate(images, size, mode="bicubic", antialias=True).to(self.dtype)


class CachedTeacher:
    """Replaces a Teacher of logits by its cache. The teacher is in memory only while records are missing.

    The logits are always read from the cache, so that a run that fills it trains on the same values as later ones.

    Args:
        cache: its fingerprint is that of the teacher that `load` returns.
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
            if self.teacher is None:
                self.teacher = self.load()
                self.teacher.to(self.device)
            records = pack(self.teacher(batch, targets).logits, targets, self.top_k)
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


def pack(logits: Tensor, targets: Targets, top_k: int | None) -> list[bytes]:
    """The records of B samples.

    Args:
        logits: [N, A], the teacher's.
        top_k: number of ids to store for each token; None: all allowed ids.
    """
    log_p = log_probabilities(logits, targets.allowed)
    if top_k is None:
        scores = logits.float()
        if targets.allowed is not None:
            scores = scores.masked_fill(~targets.allowed, -torch.inf)
        columns = [scores.logsumexp(-1), log_p.half()]
    else:
        best, ids = log_p.topk(top_k)
        columns = [log_p.scatter(-1, ids, -torch.inf).logsumexp(-1), ids.int(), best.half()]
    tokens = targets.valid.sum(1).tolist()
    parts = [column.cpu().split(tokens) for column in columns]
    if targets.allowed is not None:
        allowed = targets.allowed.cpu().split(tokens)
        parts[-1] = [values[may] for values, may in zip(parts[-1], allowed, strict=True)]
    return [b"".join(part.numpy().tobytes() for part in sample) for sample in zip(*parts, strict=True)]


def unpack(records: Sequence[bytes], targets: Targets, top_k: int | None) -> Tensor:
    """Logits [N, A] in float32 from the records of B samples, packed with equal targets and `top_k`.

    They equal those of the teacher up to rounding or, with `top_k`, are log-probabilities of the V ids of the
    vocabulary. Their values at ids that are not allowed are arbitrary.
    """
    device = targets.columns.device
    ends = (4 * targets.valid.sum(1)).tolist()  # of the numbers, in bytes
    numbers = _joined("<f4", [record[:end] for record, end in zip(records, ends, strict=True)], device)
    rest = [record[end:] for record, end in zip(records, ends, strict=True)]
    if top_k is not None:
        ends = [top_k * end for end in ends]
        ids = _joined("<i4", [record[:end] for record, end in zip(rest, ends, strict=True)], device)
        best = _joined("<f2", [record[end:] for record, end in zip(rest, ends, strict=True)], device)
        even = (numbers - math.log(targets.vocabulary_size - top_k))[:, None].expand(-1, targets.vocabulary_size)
        return even.scatter(-1, ids.view(-1, top_k).long(), best.view(-1, top_k).float())
    values = _joined("<f2", rest, device).float()
    if targets.allowed is None:
        return values.view(len(numbers), -1) + numbers[:, None]
    return torch.zeros(targets.allowed.shape, device=device).masked_scatter(targets.allowed, values) + numbers[:, None]


def _joined(dtype: str, parts: Sequence[bytes], device: torch.device) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray().join(parts), dtype)).to(device)
