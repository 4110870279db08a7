"""What a checkpoint holds, in whichever form: `Checkpoint.open`."""

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

from ofa.checkpoint.architecture import build_config, config_of, fairseq_settings, hf_settings
from ofa.checkpoint.json_files import read_json
from ofa.checkpoint.modelscope import DESCRIPTION
from ofa.checkpoint.names import EMBEDDING, TIED, our_name
from ofa.checkpoint.places import CONFIG, find, weight_files
from ofa.checkpoint.reading import is_mapped, read_file, read_outline
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.vocabulary import N_BINS, N_CODES, VOCABULARY_SIZE

# A mapped file counts as memory as far as it was read, until it is closed: it is opened anew for each so many bytes.
AT_A_TIME = 128 << 20
WRAPPED = "module."  # before all names of a model that was wrapped for several GPUs
USUAL_NUMBERS = {"code_dict_size": N_CODES, "num_bins": N_BINS}  # options of the original trainer
OWN_RUN = "run of this project"
EMA_PLACES = (("extra_state", "ema_fp32_params"), ("extra_state", "ema"))  # the first that is there


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file: the name it has there, its shape and precision."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Format:
    """How the content of one file is arranged.

    Attributes:
        name: what people call it.
        place: keys that lead to the weights.
        prefix: in front of the names of weights; what lacks it is not of the model.
        ema: keys that lead to averaged weights beside them; None: there are none.
        averaged: whether the weights themselves are the average.
        settings: of the model, names as in OFAConfig; None: it does not say.
        task: the original trainer's name of what it was trained on; None: it does not say.
        task_options: what the original trainer was told of the task.
        kept_task: fields of TaskSettings, as a run keeps them; None: it does not say.
        optimizer: whether the state of an optimizer is there.
    """

    name: str
    place: tuple[str, ...] = ()
    prefix: str = ""
    ema: tuple[str, ...] | None = None
    averaged: bool = False
    settings: dict[str, Any] | None = None
    task: str | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    kept_task: Mapping[str, Any] | None = None
    optimizer: bool = False


@dataclass
class WeightIndex:
    """What is where in the files of a checkpoint.

    Attributes:
        files: of each file, its weights by our name.
        tied: names of the embedding matrix where it is stored again.
        dropped: names of what the model computes.
    """

    files: dict[Path, dict[str, TensorInfo]] = field(default_factory=dict)
    tied: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def stored(self) -> dict[str, TensorInfo]:
        """All weights by our name."""
        return {name: stored for weights in self.files.values() for name, stored in weights.items()}


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk, and what is known of their model.

    Attributes:
        given: what the user called it.
        path: the file or folder, as errors call it.
        form: how it is arranged; of a folder, how its files are.
    """

    given: str
    path: Path
    form: Format

    @classmethod
    def open(cls, source: str | Path | Checkpoint, *, ema: bool = False) -> Checkpoint:
        """What `source` holds: a path, as `find` takes it, or what was opened before; the weights stay on disk.

        Args:
            ema: take the averaged weights.

        Raises:
            UserError: it cannot be read, is no checkpoint, or holds no averaged weights.
        """
        checkpoint = source if isinstance(source, Checkpoint) else cls._read(source)
        if not ema or checkpoint.form.averaged:
            return checkpoint
        place = checkpoint.form.ema
        if place is None:
            raise UserError(f"{checkpoint.path} holds no EMA weights; take the others, without ema")
        return replace(checkpoint, form=replace(checkpoint.form, place=place, averaged=True))

    @classmethod
    def _read(cls, given: str | Path) -> Checkpoint:
        path = find(given)
        return cls(str(given), path, _folder_form(path) if path.is_dir() else _form(read_outline(path), path))

    @cached_property
    def listing(self) -> WeightIndex:
        """Which weights there are; their content stays on disk.

        Raises:
            UserError: there are none, one is there twice, or a file cannot be read.
        """
        listing, seen = WeightIndex(), set()
        for file in weight_files(self.path):
            opened = self._weights(read_outline(file))
            prefix = self.form.prefix
            if not prefix and opened and all(name.startswith(WRAPPED) for name in opened):
                prefix = WRAPPED
            weights = listing.files[file] = {}
            for name, tensor in opened.items():
                if not name.startswith(prefix):
                    continue
                ours = our_name(name.removeprefix(prefix))
                if ours in TIED:
                    listing.tied.append(name)
                    ours = EMBEDDING
                if ours is None:
                    listing.dropped.append(name)
                elif ours not in seen:
                    weights[ours] = TensorInfo(name, tuple(tensor.shape), tensor.dtype)
                    seen.add(ours)
                elif ours != EMBEDDING:
                    raise UserError(f"{file} has {ours} twice, once as {name}: it is not one model")
        if not seen:
            raise UserError(f"{self.path} holds no weights of a model")
        return listing

    def config(self) -> OFAConfig:
        """The shape of the model.

        Raises:
            UserError: no model has such weights, or another one than the file says.
        """
        if self.form.name == OWN_RUN:  # it says all there is to say
            return build_config(self.form.settings, self.path)
        shapes = {name: stored.shape for name, stored in self.listing.stored.items()}
        config = config_of(self.form.settings or {}, shapes, self.path)
        if self.other_ids is None and config.vocab_size < VOCABULARY_SIZE:  # older files lack those at the end
            config = replace(config, vocab_size=VOCABULARY_SIZE)
        return config

    @property
    def other_ids(self) -> str | None:
        """The option by which its ids mean others than in `ofa.vocabulary`; None: they do not, as far as it says."""
        for name, usual in USUAL_NUMBERS.items():
            if self.form.task_options.get(name, usual) not in (usual, None):
                return f"{name}={self.form.task_options[name]}"
        return None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight by our name, in float32 and in memory of its own.

        Raises:
            UserError: the output matrix is another than the embedding, or a file cannot be read.
        """
        for file, weights in self.listing.files.items():
            at_a_time = AT_A_TIME if is_mapped(file) else math.inf
            left = deque(weights.items())
            while left:
                opened, taken = self._weights(read_file(file)), 0
                while left and taken < at_a_time:
                    name, stored = left.popleft()
                    tensor = opened.pop(stored.name)  # of a file that is read whole, what was copied is freed
                    if name == EMBEDDING:
                        self._check_tied(tensor, opened)
                    taken += tensor.nbytes
                    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
                    yield name, tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
                del opened, tensor

    def _weights(self, content: dict[Any, Any]) -> dict[str, Tensor]:
        for key in self.form.place:
            content = content.get(key, {})
        return content

    def _check_tied(self, embedding: Tensor, opened: dict[str, Tensor]) -> None:
        for name in self.listing.tied:
            other = opened.pop(name, embedding)
            if other.data_ptr() != embedding.data_ptr() and not torch.equal(other, embedding):
                raise UserError(
                    f"{self.path} holds a model with an output matrix of its own: {name} is not {EMBEDDING}, which is "
                    "not supported; all released ones have one matrix for both"
                )


def _form(content: Mapping[str, Any], file: Path) -> Format:
    if "hyper_parameters" in content:
        return _run_form(content, file)
    if _are_weights(content.get("model")):
        return _fairseq_form(content, file)
    if _are_weights(content.get("state_dict")):
        return Format("state dict", ("state_dict",))
    if _are_weights(content):
        beside = file.parent / CONFIG
        return Format("state dict", settings=_settings(beside) if beside.is_file() else None)
    raise UserError(
        f"{file} holds no weights of a model: neither a state dict nor a checkpoint of the original trainer or of "
        "train.py"
    )


def _folder_form(folder: Path) -> Format:
    is_modelscope = (folder / DESCRIPTION).is_file()
    return Format("ModelScope folder" if is_modelscope else "model folder", settings=_settings(folder / CONFIG))


def _run_form(content: Mapping[str, Any], file: Path) -> Format:
    parameters = content["hyper_parameters"]
    settings = parameters.get("model") if isinstance(parameters, Mapping) else None
    if not isinstance(settings, Mapping):
        raise UserError(f"{file} does not say what model it holds: it was not written by train.py")
    return Format(
        OWN_RUN,
        ("state_dict",),
        "model.",
        averaged="averaging_state" in content,
        settings=dict(settings),
        kept_task=parameters.get("task"),
        optimizer="optimizer_states" in content,
    )


def _fairseq_form(content: Mapping[str, Any], file: Path) -> Format:
    cfg = _mapping(content.get("cfg"))
    options = _mapping(cfg.get("model")) or _mapping(content.get("args"))
    task_options = _mapping(cfg.get("task")) or _mapping(content.get("args"))
    task = task_options.get("_name") or options.get("task")
    places = [place for place in EMA_PLACES if _are_weights(_mapping(content.get(place[0])).get(place[1]))]
    return Format(
        "file of the original trainer",
        ("model",),
        ema=places[0] if places else None,
        settings=fairseq_settings(options, file) if options else None,
        task=task if isinstance(task, str) else None,
        task_options=task_options,
        optimizer=bool(content.get("last_optimizer_state")),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    """Options, whether they are a dictionary, a Namespace or missing."""
    value = vars(value) if isinstance(value, Namespace) else value
    return value if isinstance(value, Mapping) else {}


def _are_weights(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _settings(config: Path) -> dict[str, Any]:
    return hf_settings(read_json(config), config)
