"""Reading the weights of a run. Nothing in a file is executed: only tensors and plain values are read."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)

BEST, LAST = Path("checkpoints", "best.ckpt"), Path("checkpoints", "last.ckpt")  # inside a run folder
TOKENIZER = "tokenizer"


def load(path: str | Path) -> tuple[OFAModel, Tokenizer]:
    """The best model of a run, in evaluation mode, and its tokenizer.

    Args:
        path: a run folder, or a .ckpt file inside one.

    Raises:
        UserError: where there is no checkpoint, it is damaged, or holds what could execute.
    """
    return load_model(path), Tokenizer.from_pretrained(tokenizer_folder(path))


def load_model(path: str | Path) -> OFAModel:
    """The model of a run folder or .ckpt file, in evaluation mode; the random state of torch stays as it is.

    Raises:
        UserError: as `load`.
    """
    file = find(path)
    checkpoint = _read(file)
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, only to be overwritten
        model = OFAModel(_config(checkpoint, file))
    _copy_weights(model, _weights(checkpoint, file), file)
    return model.eval()


def read_config(path: str | Path) -> OFAConfig:
    """The shape of the model of a run folder or .ckpt file; its weights stay on disk.

    Raises:
        UserError: as `load`.
    """
    file = find(path)
    return _config(_read(file), file)


def load_weights(model: OFAModel, path: str | Path) -> None:
    """Copy the weights of a run folder or .ckpt file into a model of the same size.

    Raises:
        UserError: as `load`, and where the sizes differ.
    """
    file = find(path)
    _copy_weights(model, _weights(_read(file), file), file)


def find(path: str | Path) -> Path:
    """The checkpoint file at `path`, a file or a run folder."""
    path = Path(path)
    if path.is_file():
        return path
    if (path / BEST).is_file():
        return path / BEST
    if path.is_dir():
        raise UserError(f"{path} holds no {BEST}: give the folder of a run that has validated once, or a .ckpt file")
    raise UserError(f"checkpoint {path} does not exist")


def tokenizer_folder(path: str | Path) -> Path:
    """Where the run of a run folder or .ckpt file keeps its vocabulary."""
    path = Path(path)
    folder = (path if path.is_dir() else path.parent.parent) / TOKENIZER
    if not folder.is_dir():
        raise UserError(f"there is no {folder} with the vocabulary of {path}; set tokenizer= to a folder that holds it")
    return folder


def _read(file: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than tensors and plain values and was not read, since that could execute"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is not a readable checkpoint ({str(error).splitlines()[0]}): is it complete?"
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{file} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def _config(checkpoint: dict[str, Any], file: Path) -> OFAConfig:
    try:
        return OFAConfig.from_dict(checkpoint["hyper_parameters"]["model"])
    except KeyError as error:
        raise UserError(f"{file} does not say what model it holds: it was not written by train.py") from error


def _weights(checkpoint: dict[str, Any], file: Path) -> dict[str, Tensor]:
    weights = {
        k.removeprefix("model."): v for k, v in checkpoint.get("state_dict", {}).items() if k.startswith("model.")
    }
    if not weights:
        raise UserError(f"{file} holds no weights of a model: it was not written by train.py")
    return weights


def _copy_weights(model: OFAModel, weights: dict[str, Tensor], file: Path) -> None:
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise UserError(
                f"{file} lacks {name}: it holds a model of another size; set model= to the one it was trained with"
            )
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{file} holds a model of another size: {name} is {list(weights[name].shape)}, the model has "
                f"{list(tensor.shape)}; set model= to the one it was trained with"
            )
    unexpected = sorted(set(weights) - set(expected))
    if unexpected:
        raise UserError(
            f"{file} holds a model of another size: it has {unexpected[0]} and {len(unexpected) - 1} entries more"
        )
    model.load_state_dict(weights)
    log.info("weights of %s", file)
