"""Models out of checkpoints of any form."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ofa.checkpoint.content import OWN_RUN, Checkpoint
from ofa.checkpoint.fitting import LoadReport
from ofa.checkpoint.modelscope import DESCRIPTION, read_description
from ofa.checkpoint.names import EMBEDDING, TIED
from ofa.checkpoint.original_task import original_task
from ofa.checkpoint.places import EXPORT, tokenizer_folder
from ofa.checkpoint.task_settings import TASK, TaskSettings
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def load(path: str | Path, *, ema: bool = False) -> tuple[OFAModel, Tokenizer]:
    """A model, in evaluation mode and float32, and its tokenizer.

    Args:
        path: a run folder, a model folder, a Hugging Face id or a file, as `find` takes it.
        ema: take the averaged weights of a file of the original trainer, which its VQA results were computed with.

    Raises:
        UserError: there is no checkpoint, it is damaged, holds what could execute or no OFA model, or has no
            vocabulary beside it.
    """
    return load_model(path, ema=ema), Tokenizer.from_pretrained(tokenizer_folder(path))


def load_model(source: str | Path | Checkpoint, *, ema: bool = False) -> OFAModel:
    """The model alone, as `load`; the random state of torch stays as it is.

    Args:
        source: a path, as `load` takes it, or what `Checkpoint.open` made of one.
        ema: as `load`.

    Raises:
        UserError: as `load`; the vocabulary is no matter here.
    """
    checkpoint = Checkpoint.open(source, ema=ema)
    _say_average(checkpoint)
    config = checkpoint.config()
    fit = LoadReport.of(checkpoint, _without_weights(config))
    fit.check("copy it again, or take another file")
    if checkpoint.form.settings is None:
        log.info("%s does not say what no shape shows, such as code_image_size: it is as usual", checkpoint.given)
    model = model_of(config, dict(fit.tensors(config.init_std)))
    log.info("weights of %s", checkpoint.path)
    return model


def model_of(config: OFAConfig, weights: Mapping[str, Tensor]) -> OFAModel:
    """A model in evaluation mode that holds these tensors themselves, by their names in its state_dict."""
    model = _without_weights(config)
    embedding = nn.Parameter(weights[EMBEDDING])  # one object, so that it stays tied
    model.load_state_dict({**weights, **dict.fromkeys((EMBEDDING, *TIED), embedding)}, assign=True)
    return model.eval()


def _without_weights(config: OFAConfig) -> OFAModel:
    """A model that takes no memory, and no random numbers, for weights that are replaced."""
    with torch.device("meta"):
        return OFAModel(config)


def load_weights(model: OFAModel, path: str | Path, *, ema: bool = False) -> None:
    """Copy the weights of a checkpoint into a model of the same size.

    A larger vocabulary of the model gets new rows (normal, std D^-0.5), and so do longer tables of positions.

    Args:
        ema: as `load`.

    Raises:
        UserError: as `load_model`, and where the sizes differ.
    """
    checkpoint = Checkpoint.open(path, ema=ema)
    _say_average(checkpoint)
    fit = LoadReport.of(checkpoint, model)
    fit.check("set model= to the one it was trained with")
    own = model.state_dict()
    for name, tensor in fit.tensors(model.config.init_std):
        own[name].copy_(tensor)
    log.info("weights of %s", checkpoint.path)


def read_config(path: str | Path) -> OFAConfig:
    """The shape of the model in a checkpoint; its weights stay on disk.

    Raises:
        UserError: as `load_model`.
    """
    return Checkpoint.open(path).config()


def read_task(source: str | Path | Checkpoint) -> TaskSettings | None:
    """The task of the model in `source`, as `Checkpoint.open` takes it; None where nothing says so.

    That is in task.json of an export folder, configuration.json of a ModelScope folder, among the options in a file of
    the original trainer, and in a checkpoint of a run.

    Raises:
        UserError: there is no such model, what says so is damaged, or it is a run's checkpoint that does not say so.
    """
    checkpoint = Checkpoint.open(source)
    task = task_of(checkpoint)
    if task is None and checkpoint.form.name == OWN_RUN:  # the published settings would be the wrong ones
        raise UserError(
            f"{checkpoint.path} does not say how its model is asked, as checkpoints of earlier versions do not; give "
            f"the folder {EXPORT}/ of its run, or have evaluate.py answer"
        )
    return task


def task_of(checkpoint: Checkpoint) -> TaskSettings | None:
    """As `read_task`; None for a run's checkpoint that does not say so."""
    path, form = checkpoint.path, checkpoint.form
    if form.kept_task is not None:
        return TaskSettings.from_values(form.kept_task, path)
    if path.is_file():
        return original_task(form.task, form.task_options)
    if (path / TASK).is_file():
        return TaskSettings.from_json(path / TASK)
    return read_description(path) if (path / DESCRIPTION).is_file() else None


def _say_average(checkpoint: Checkpoint) -> None:
    if checkpoint.form.ema is not None and not checkpoint.form.averaged:
        log.info(
            "%s also holds EMA weights, which are not taken: python -m ofa.checkpoint convert %s FOLDER --ema makes a "
            "model of them",
            checkpoint.path,
            checkpoint.path,
        )
