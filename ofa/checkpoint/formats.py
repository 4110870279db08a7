"""Checkpoints of every published format: `Checkpoint.open`."""

from __future__ import annotations

import math
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ofa.checkpoint.architecture import (
    EMBEDDING,
    TIED,
    build_config,
    fairseq_settings,
    hf_settings,
    infer_config,
    our_name,
)
from ofa.checkpoint.files import CONFIG, find, is_mapped, read_file, read_json, read_outline, weight_files
from ofa.checkpoint.task_settings import MODELSCOPE
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.vocabulary import N_BINS, N_CODES, VOCABULARY_SIZE

# Pages of a mapped file count as memory until it is closed: it is opened again after this many bytes.
CHUNK_BYTES = 128 << 20
WRAPPED = "module."  # before all names of a model that was wrapped for several GPUs
USUAL_NUMBERS = {"code_dict_size": N_CODES, "num_bins": N_BINS}  # options of the original trainer
OWN_RUN = "run of this project"


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape and dtype of a tensor in a file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Format:
    """The arrangement of the content of one file; None stands for what is not stored."""

    name: str  # shown to users
    keys: tuple[str, ...] = ()  # path to the weights in nested dictionaries
    prefix: str = ""  # of the names of weights; tensors without it do not belong to the model
    ema: tuple[str, ...] | None = None  # keys of averaged weights stored in addition
    averaged: bool = False  # whether the weights themselves are the average
    settings: dict[str, Any] | None = None  # of the model, by fields of OFAConfig
    task: str | None = None  # name of the task in the original trainer
    task_options: Mapping[str, Any] = field(default_factory=dict)  # of the original trainer
    kept_task: Mapping[str, Any] | None = None  # fields of TaskSettings in a run's checkpoint
    optimizer: bool = False  # whether there is an optimizer state


@dataclass
class WeightIndex:
    """The weights in the files of a checkpoint."""

    files: dict[Path, dict[str, TensorInfo]] = field(default_factory=dict)  # for each file, its weights by our name
    tied: list[str] = field(default_factory=list)  # names under which the embedding matrix is stored again
    dropped: list[str] = field(default_factory=list)  # names of tables that the model computes

    @property
    def stored(self) -> dict[str, TensorInfo]:
        """All weights by our name."""
        return {name: info for weights in self.files.values() for name, info in weights.items()}


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk, and what is known about their model."""

    given: str  # the path or id that the user gave
    path: Path  # the file or folder
    format: Format  # of the file, or of the files in the folder

    @classmethod
    def open(cls, source: str | Path | Checkpoint, *, ema: bool = False) -> Checkpoint:
        """Open a path (see `find`) or an open checkpoint without reading its weights; `ema`: the averaged ones."""
        checkpoint = source
        if not isinstance(source, Checkpoint):
            path = find(source)
            if path.is_dir():
                name = "ModelScope folder" if (path / MODELSCOPE).is_file() else "model folder"
                format = Format(name, settings=hf_settings(read_json(path / CONFIG), path / CONFIG))
            else:
                format = _file_format(read_outline(path), path)
            checkpoint = cls(str(source), path, format)
        if not ema or checkpoint.format.averaged:
            return checkpoint
        keys = checkpoint.format.ema
        if keys is None:
            raise UserError(f"{checkpoint.path} holds no EMA weights; load it without ema")
        return replace(checkpoint, format=replace(checkpoint.format, keys=keys, averaged=True))

    @cached_property
    def index(self) -> WeightIndex:
        """Names, shapes and dtypes of the weights; UserError if there are none, or one occurs twice."""
        index, seen = WeightIndex(), set()
        for file in weight_files(self.path):
            opened = self._weights(read_outline(file))
            prefix = self.format.prefix
            if not prefix and opened and all(name.startswith(WRAPPED) for name in opened):
                prefix = WRAPPED
            weights = index.files[file] = {}
            for name, tensor in opened.items():
                if not name.startswith(prefix):
                    continue
                ours = our_name(name.removeprefix(prefix))
                if ours in TIED:
                    index.tied.append(name)
                    ours = EMBEDDING
                if ours is None:
                    index.dropped.append(name)
                elif ours not in seen:
                    weights[ours] = TensorInfo(name, tuple(tensor.shape), tensor.dtype)
                    seen.add(ours)
                elif ours != EMBEDDING:
                    raise UserError(f"{file} has {ours} twice, once as {name}: it does not hold one model")
        if not seen:
            raise UserError(f"{self.path} holds no weights of a model")
        return index

    def config(self) -> OFAConfig:
        """The configuration of the model; UserError if the weights contradict it or are not those of an OFA model."""
        if self.format.name == OWN_RUN:  # its configuration is complete
            return build_config(self.format.settings, self.path)
        shapes = {name: info.shape for name, info in self.index.stored.items()}
        config = infer_config(self.format.settings or {}, shapes, self.path)
        if self.unusual_ids is None and config.vocab_size < VOCABULARY_SIZE:  # older files lack the last ids
            config = replace(config, vocab_size=VOCABULARY_SIZE)
        return config

    @property
    def unusual_ids(self) -> str | None:
        """The option that gives its ids other meanings than in `ofa.vocabulary`; None: there is none."""
        for name, usual in USUAL_NUMBERS.items():
            if self.format.task_options.get(name, usual) not in (usual, None):
                return f"{name}={self.format.task_options[name]}"
        return None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight by our name, in float32 and in its own memory; UserError if an output matrix is separate."""
        for file, weights in self.index.files.items():
            limit = CHUNK_BYTES if is_mapped(file) else math.inf
            left = deque(weights.items())
            while left:
                opened, n_bytes = self._weights(read_file(file)), 0
                while left and n_bytes < limit:
                    name, info = left.popleft()
                    tensor = opened.pop(info.name)  # frees it after the copy, if the file is not mapped
                    if name == EMBEDDING:
                        self._check_tied(tensor, opened)
                    n_bytes += tensor.nbytes
                    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
                    yield name, tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
                del opened, tensor

    def _weights(self, content: dict[Any, Any]) -> dict[str, Tensor]:
        for key in self.format.keys:
            content = content.get(key, {})
        return content

    def _check_tied(self, embedding: Tensor, opened: dict[str, Tensor]) -> None:
        for name in self.index.tied:
            other = opened.pop(name, embedding)
            if other.data_ptr() != embedding.data_ptr() and not torch.equal(other, embedding):
                raise UserError(
                    f"{self.path} holds a model with a separate output matrix: {name} is not {EMBEDDING}, which is "
                    "not supported; all released ones have one matrix for both"
                )


def _file_format(content: Mapping[str, Any], file: Path) -> Format:
    if "hyper_parameters" in content:
        return _run_format(content, file)
    if _are_weights(content.get("model")):
        return _fairseq_format(content, file)
    if _are_weights(content.get("state_dict")):
        return Format("state dict", ("state_dict",))
    if _are_weights(content):
        config = file.parent / CONFIG
        return Format("state dict", settings=hf_settings(read_json(config), config) if config.is_file() else None)
    raise UserError(
        f"{file} holds no weights of a model: neither a state dict nor a checkpoint of the original trainer or of "
        "train.py"
    )


def _run_format(content: Mapping[str, Any], file: Path) -> Format:
    parameters = content["hyper_parameters"]
    settings = parameters.get("model") if isinstance(parameters, Mapping) else None
    if not isinstance(settings, Mapping):
        raise UserError(f"{file} does not contain its model configuration: it was not written by train.py")
    return Format(
        OWN_RUN,
        ("state_dict",),
        "model.",
        averaged="averaging_state" in content,
        settings=dict(settings),
        kept_task=parameters.get("task"),
        optimizer="optimizer_states" in content,
    )


def _fairseq_format(content: Mapping[str, Any], file: Path) -> Format:
    cfg = _mapping(content.get("cfg"))
    options = _mapping(cfg.get("model")) or _mapping(content.get("args"))
    task_options = _mapping(cfg.get("task")) or _mapping(content.get("args"))
    task = task_options.get("_name") or options.get("task")
    extra = _mapping(content.get("extra_state"))
    ema = next((key for key in ("ema_fp32_params", "ema") if _are_weights(extra.get(key))), None)
    return Format(
        "file of the original trainer",
        ("model",),
        ema=("extra_state", ema) if ema else None,
        settings=fairseq_settings(options, file) if options else None,
        task=task if isinstance(task, str) else None,
        task_options=task_options,
        optimizer=bool(content.get("last_optimizer_state")),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    """Options as a mapping: a dictionary, a Namespace or missing."""
    value = vars(value) if isinstance(value, Namespace) else value
    return value if isinstance(value, Mapping) else {}


def _are_weights(value: object) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
