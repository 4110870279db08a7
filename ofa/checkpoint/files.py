"""Checkpoint files: where they are (`find`, `weight_files`, `tokenizer_folder`), and safe reading (`read_file`).

Reading executes nothing. Torch files are pickles; PyTorch's restricted unpickler allows tensors and plain values only.
The option objects and NumPy numbers of the original trainer are replaced by harmless stand-ins.
"""

import argparse
import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import safe_open
from torch.serialization import safe_globals

from ofa.errors import UserError
from ofa.plain_pickle import NUMPY_SCALARS, NumberType, number
from ofa.tokenizer import VOCABULARY_FILE, WORDPIECE_FILE, is_hub_id

# Inside a run folder: checkpoints, vocabulary, exported model.
BEST, LAST = Path("checkpoints", "best.ckpt"), Path("checkpoints", "last.ckpt")
TOKENIZER = "tokenizer"
EXPORT = "model"

# Inside a model folder, which is recognised by its CONFIG. The first of WEIGHTS that exists is read.
CONFIG = "config.json"
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}.index.json", BIN, f"{BIN}.index.json")
HUB_PATTERNS = ["*.json", "merges.txt", "vocab.txt", "*.safetensors", "pytorch_model*.bin"]

SAFE_GLOBALS = [
    argparse.Namespace,  # only keeps the attributes it is given
    (NumberType, "numpy.dtype"),
    *((number, f"{module}.scalar") for module in NUMPY_SCALARS),
]
ZIP = b"PK\x03\x04"


def find(path: str | Path) -> Path:
    """The file or model folder of the weights at `path`; UserError if there are none.

    Args:
        path: a run folder (its exported model if there is one, else its best checkpoint), a file, a model folder, or a
            Hugging Face id ("OFA-Sys/ofa-tiny"), which is downloaded if it is not cached.
    """
    given, path = str(path), Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        for found in (path / EXPORT, path):
            if (found / CONFIG).is_file():
                return found
        if (path / BEST).is_file():
            return path / BEST
        raise UserError(
            f"{path} holds no {BEST} and no {CONFIG}: give the folder of a run that has validated once, a model folder "
            "or a checkpoint file"
        )
    if is_hub_id(given):
        return _download(given)
    raise UserError(f"checkpoint {path} does not exist")


def tokenizer_folder(path: str | Path) -> Path:
    """The folder of the vocabulary stored with the weights at `path` (see `find`); UserError if there is none."""
    folder = kept_tokenizer(path)
    if folder is None:
        raise UserError(
            f"there is no vocabulary with {path}; set tokenizer= to a folder or a Hugging Face model that holds it"
        )
    return folder


def kept_tokenizer(path: str | Path) -> Path | None:
    """As `tokenizer_folder`; None if there is none."""
    path, found = Path(path), find(path)
    folders = [path / TOKENIZER, found if found.is_dir() else found.parent]
    if found.parent.name == BEST.parent.name:
        folders.append(found.parent.parent / TOKENIZER)
    for folder in folders:
        if any((folder / file).is_file() for file in (VOCABULARY_FILE, WORDPIECE_FILE)):
            return folder
    return None


def weight_files(path: str | Path) -> list[Path]:
    """The weight files at `path` (see `find`): one, or all shards of one model; UserError if one is missing."""
    found = find(path)
    if found.is_file():
        return [found]
    for name in WEIGHTS:
        if (found / name).is_file():
            return _shards(found / name) if name.endswith(".json") else [found / name]
    raise UserError(f"{found} holds {CONFIG} but no {SAFETENSORS} or {BIN}; copy the weights into it")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of weights ({type(error).__name__}); copy it again") from error
    for name in names:
        if Path(str(name)).name != name or not (index.parent / name).is_file():
            raise UserError(f"{index} names {name}, which is not in its folder; copy all parts of the weights into it")
    return [index.parent / name for name in names]


def _download(name: str) -> Path:
    try:
        folder = Path(snapshot_download(name, allow_patterns=HUB_PATTERNS))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"{name} is neither a local file or folder nor a model on Hugging Face") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{name} is not a local file or folder and could not be downloaded from Hugging Face "
            f"({type(error).__name__}); connect to the network once, or give a local path"
        ) from error
    if not (folder / CONFIG).is_file():
        raise UserError(f"{name} on Hugging Face holds no {CONFIG}: it is not a model folder")
    return folder


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError if it holds something else or cannot be read."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not a readable JSON file ({error}); copy it again from the model") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} does not hold a JSON object; copy it again from the model")
    return content


def read_outline(file: Path) -> dict[Any, Any]:
    """As `read_file`, but tensors of torch files have shape and dtype without data: any file needs little memory."""
    return read_file(file, "meta")


def read_file(file: Path, device: str = "cpu") -> dict[Any, Any]:
    """The content of a torch or safetensors file; tensors are memory-mapped where the format allows.

    Raises:
        UserError: the file cannot be read, is damaged, holds no dictionary, or holds something that could execute.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                content = {name: opened.get_tensor(name) for name in opened.keys()}
        else:
            with safe_globals(SAFE_GLOBALS), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickles that are refused in any case
                content = torch.load(file, map_location=device, weights_only=True, mmap=is_mapped(file))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"names {named[1]}, which" if named else "holds more than tensors and plain values, which"
        raise UserError(
            f"{file} was not read: it {what} could execute code; ask its author for only the state dict, saved by "
            "torch.save or as safetensors"
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged pickle may raise anything, as pickle's documentation warns
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{file} is not a readable checkpoint ({reason}): is it complete?") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}, not a checkpoint")
    return content


def is_mapped(file: Path) -> bool:
    """Whether `read_file` maps the tensors; older torch files cannot be mapped."""
    if file.suffix == ".safetensors":
        return True
    with file.open("rb") as opened:
        return opened.read(len(ZIP)) == ZIP
