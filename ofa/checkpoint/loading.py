"""Models from checkpoints of any format: `load`, `load_model`, `load_weights`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ofa.checkpoint.architecture import COUNTER, EMBEDDING, POSITIONS, TIED
from ofa.checkpoint.files import EXPORT, kept_tokenizer, tokenizer_folder
from ofa.checkpoint.formats import OWN_RUN, Checkpoint
from ofa.checkpoint.task_settings import MODELSCOPE, TASK, TaskSettings, from_fairseq, from_modelscope
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)

SHOWN = 3  # names in a message


def load(path: str | Path, *, ema: bool = False) -> tuple[OFAModel, Tokenizer]:
    """A model, in evaluation mode and float32, and its tokenizer.

    Args:
        path: a run folder, a model folder, a Hugging Face id or a file (see `find`).
        ema: take the averaged weights of a file of the original trainer, with which its VQA results were computed.

    Raises:
        UserError: there is no checkpoint, it is damaged, could execute code, is not an OFA model, or has no vocabulary.
    """
    return load_model(path, ema=ema), Tokenizer.from_pretrained(tokenizer_folder(path))


def load_model(source: str | Path | Checkpoint, *, ema: bool = False) -> OFAModel:
    """Only the model of a path or an open checkpoint; otherwise as `load`. Torch's random state does not change."""
    checkpoint = _open(source, ema)
    config = checkpoint.config()
    report = LoadReport.of(checkpoint, without_weights(config))
    report.check("copy it again, or take another file")
    if checkpoint.format.settings is None:
        log.info("%s has no configuration: settings that no shape determines have their defaults", checkpoint.given)
    model = model_of(config, dict(report.tensors(config.init_std)))
    log.info("weights of %s", checkpoint.path)
    return model


def model_of(config: OFAConfig, weights: Mapping[str, Tensor]) -> OFAModel:
    """A model in evaluation mode that uses these tensors, by their names in its state_dict, without a copy."""
    model = without_weights(config)
    embedding = nn.Parameter(weights[EMBEDDING])  # one object, so that it stays tied
    model.load_state_dict({**weights, **dict.fromkeys((EMBEDDING, *TIED), embedding)}, assign=True)
    return model.eval()


def load_weights(model: OFAModel, path: str | Path, *, ema: bool = False) -> None:
    """Copy the weights of a checkpoint into a model of the same size.

    If the model has a larger vocabulary, its additional rows are new (normal, std D^-0.5); the same holds for longer
    position tables. Arguments and errors as of `load`; also UserError if the sizes differ.
    """
    checkpoint = _open(path, ema)
    report = LoadReport.of(checkpoint, model)
    report.check("set model= to the one it was trained with")
    own = model.state_dict()
    for name, tensor in report.tensors(model.config.init_std):
        own[name].copy_(tensor)
    log.info("weights of %s", checkpoint.path)


def read_config(path: str | Path) -> OFAConfig:
    """The configuration of the model in a checkpoint, without reading its weights; errors as of `load`."""
    return Checkpoint.open(path).config()


def read_task(source: str | Path | Checkpoint) -> TaskSettings | None:
    """The task of the model in `source` (see `Checkpoint.open`), or None; UserError for a run that lacks its task."""
    checkpoint = Checkpoint.open(source)
    task = stored_task(checkpoint)
    if task is None and checkpoint.format.name == OWN_RUN:  # the published settings would be wrong
        raise UserError(
            f"{checkpoint.path} was written by an earlier version and does not contain its task settings; give the "
            f"folder {EXPORT}/ of its run, or use evaluate.py"
        )
    return task


def stored_task(checkpoint: Checkpoint) -> TaskSettings | None:
    """As `read_task`; None for a run's checkpoint without a task, too."""
    path, format = checkpoint.path, checkpoint.format
    if format.kept_task is not None:
        return TaskSettings.from_values(format.kept_task, path)
    if path.is_file():
        return from_fairseq(format.task, format.task_options)
    if (path / TASK).is_file():
        return TaskSettings.from_json(path / TASK)
    return from_modelscope(path) if (path / MODELSCOPE).is_file() else None


def check_vocabulary(source: str | Path | Checkpoint, tokenizer: Tokenizer) -> None:
    """Raises UserError if the weights of `source` (see `Checkpoint.open`) were trained with another vocabulary."""
    checkpoint = Checkpoint.open(source)
    given, option = checkpoint.given, checkpoint.unusual_ids
    if option is not None:
        raise UserError(
            f"{given} was trained with {option}, so that its ids have other meanings; it can be loaded, but neither "
            "used for prediction nor trained"
        )
    folder = kept_tokenizer(checkpoint.path)
    if folder is None:
        log.info("there is no vocabulary with %s; it is assumed to be the current one", given)
    elif not Tokenizer.from_pretrained(folder).has_pieces_of(tokenizer):
        raise UserError(
            f"{given} was trained with another vocabulary, so that the same ids have other meanings; set "
            f"tokenizer={folder}"
        )


@dataclass
class LoadReport:
    """How the weights of a checkpoint fit a model."""

    checkpoint: Checkpoint
    missing: list[str] = field(default_factory=list)  # weights that only the model has
    unexpected: list[str] = field(default_factory=list)  # weights that only the checkpoint has
    misfits: list[str] = field(default_factory=list)  # sentences about weights of another shape
    resized: dict[str, torch.Size] = field(default_factory=dict)  # shapes in the model of tables of other lengths
    counters: list[str] = field(default_factory=list)  # batch counters that the checkpoint lacks, set to 0

    @classmethod
    def of(cls, checkpoint: Checkpoint, model: OFAModel) -> LoadReport:
        """Compares names and shapes, without reading weights."""
        report, stored = cls(checkpoint), checkpoint.index.stored
        expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in TIED}
        report.unexpected = [name for name in stored if name not in expected]
        for name, shape in expected.items():
            if name not in stored:
                (report.counters if name.endswith(COUNTER) else report.missing).append(name)
            elif stored[name].shape != shape:
                report._compare(name, stored[name].shape, shape)
        return report

    def check(self, remedy: str) -> None:
        """Raises UserError, with `remedy`, if weights are missing, unexpected or of another shape."""
        found = [
            *self.misfits[:1],
            *([f"it lacks {shorten(self.missing)}"] if self.missing else []),
            *([f"it has {shorten(self.unexpected)}, which the model does not have"] if self.unexpected else []),
        ]
        if found:
            raise UserError(f"{self.checkpoint.path} holds a model of another size: {'; '.join(found)}; {remedy}")

    def tensors(self, std: float) -> Iterator[tuple[str, Tensor]]:
        """Each weight of the model except the tied ones, in float32; `std` is that of new rows of position tables."""
        for name, tensor in self.checkpoint.tensors():
            if (shape := self.resized.get(name)) is not None:
                tensor = _resize(name, tensor, shape, shape[1] ** -0.5 if name == EMBEDDING else std)
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


def shorten(names: list[str]) -> str:
    """The first names, and the number of others."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _resize(name: str, tensor: Tensor, shape: torch.Size, std: float) -> Tensor:
    """The first rows of a table, then new ones: deterministic, and without a change of torch's random state."""
    kept = min(len(tensor), shape[0])
    log.info("%s: %d of %d rows are used, %d are new", name, kept, len(tensor), shape[0] - kept)
    rows = torch.empty(shape).normal_(std=std, generator=torch.Generator().manual_seed(0))
    rows[:kept] = tensor[:kept]
    return rows


def without_weights(config: OFAConfig) -> OFAModel:
    """A model on the meta device, whose construction uses neither memory nor random numbers."""
    with torch.device("meta"):
        return OFAModel(config)


def _open(source: str | Path | Checkpoint, ema: bool) -> Checkpoint:
    checkpoint = Checkpoint.open(source, ema=ema)
    if checkpoint.format.ema is not None and not checkpoint.format.averaged:
        remedy = f"python -m ofa.checkpoint convert {checkpoint.path} FOLDER --ema"
        log.info("%s also holds EMA weights, which are not used (%s)", checkpoint.path, remedy)
    return checkpoint
