"""Files of tensors as dictionaries, without executing what stands in them: `read_file`, `read_outline`.

Torch files are pickles. PyTorch reads them with an interpreter of its own that knows tensors and plain values; of what
the original trainer wrote beside them, its options and NumPy numbers, harmless stand-ins are made.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.serialization import safe_globals

from ofa.errors import UserError
from ofa.plain_pickle import NUMPY_SCALARS, NumberType, number

HARMLESS = [
    argparse.Namespace,  # only keeps the attributes it is given
    (NumberType, "numpy.dtype"),
    *((number, f"{module}.scalar") for module in NUMPY_SCALARS),
]
ZIP = b"PK\x03\x04"


def read_file(file: Path) -> dict[Any, Any]:
    """The content of a torch or safetensors file; its tensors are mapped, where the format allows, and not yet read.

    Raises:
        UserError: it cannot be read, is damaged, holds no dictionary, or something that could execute.
    """
    return _read(file, "cpu")


def read_outline(file: Path) -> dict[Any, Any]:
    """The same, but tensors of torch files have shape and precision alone: a file of any size needs little memory.

    Raises:
        UserError: as `read_file`.
    """
    return _read(file, "meta")


def _read(file: Path, device: str) -> dict[Any, Any]:
    try:
        content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file, device)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(file, str(error))) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged pickle may raise anything, as pickle's documentation warns
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{file} is not a readable checkpoint ({reason}): is it complete?") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}, not a checkpoint")
    return content


def is_mapped(file: Path) -> bool:
    """Whether `read_file` leaves the tensors on disk until they are looked at: older torch files it has to read."""
    if file.suffix == ".safetensors":
        return True
    with file.open("rb") as opened:
        return opened.read(len(ZIP)) == ZIP


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}


def _read_torch(file: Path, device: str) -> Any:
    with safe_globals(HARMLESS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles that are refused in any case
        return torch.load(file, map_location=device, weights_only=True, mmap=is_mapped(file))


def _refusal(file: Path, reason: str) -> str:
    named = re.search(r"GLOBAL (\S+)", reason)
    what = f"names {named[1]}, which" if named else "holds more than tensors and plain values, which"
    return (
        f"{file} was not read: it {what} could execute code; ask whoever made it for its state dict alone, "
        "saved by torch.save or as safetensors"
    )
