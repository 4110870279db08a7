"""Where weights and vocabularies lie: in a run, in a model folder, in a file, on Hugging Face."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from ofa.checkpoint.json_files import read_json
from ofa.errors import UserError
from ofa.hub import is_hub_id
from ofa.tokenizer import VOCABULARY_FILE, WORDPIECE_FILE

BEST, LAST = Path("checkpoints", "best.ckpt"), Path("checkpoints", "last.ckpt")  # inside a run folder
TOKENIZER = "tokenizer"  # the vocabulary of a run, inside its folder
EXPORT = "model"  # the self-contained model of a run, inside its folder

CONFIG = "config.json"  # makes a folder a model folder
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}.index.json", BIN, f"{BIN}.index.json")  # the first that is there is read
WANTED_OF_HUB = ["*.json", "merges.txt", "vocab.txt", "*.safetensors", "pytorch_model*.bin"]


def find(path: str | Path) -> Path:
    """The weights that `path` names.

    Args:
        path: a run folder, which means its exported model where there is one, else its best checkpoint; a file; a model
            folder; or a Hugging Face id ("OFA-Sys/ofa-tiny"), which is fetched where it is not in the cache.

    Returns:
        A file, or a model folder.

    Raises:
        UserError: there is nothing of the kind.
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
        return _fetch(given)
    raise UserError(f"checkpoint {path} does not exist")


def tokenizer_folder(path: str | Path) -> Path:
    """The folder with the vocabulary that belongs to the weights of `path`, as `find` takes it.

    Raises:
        UserError: there is none, as with a single file of the original trainer.
    """
    folder = kept_tokenizer(path)
    if folder is None:
        raise UserError(
            f"there is no vocabulary with {path}; set tokenizer= to a folder or a Hugging Face model that holds it"
        )
    return folder


def kept_tokenizer(path: str | Path) -> Path | None:
    """As `tokenizer_folder`, or None where there is none."""
    path, found = Path(path), find(path)
    folders = [path / TOKENIZER, found if found.is_dir() else found.parent]
    if found.parent.name == BEST.parent.name:
        folders.append(found.parent.parent / TOKENIZER)
    for folder in folders:
        if any((folder / file).is_file() for file in (VOCABULARY_FILE, WORDPIECE_FILE)):
            return folder
    return None


def weight_files(path: str | Path) -> list[Path]:
    """The files of weights that `find` leads to: one, or several parts of one model.

    Raises:
        UserError: a model folder has none, or not all that its index names.
    """
    found = find(path)
    if found.is_file():
        return [found]
    for name in WEIGHTS:
        if (found / name).is_file():
            return _parts(found / name) if name.endswith(".json") else [found / name]
    raise UserError(f"{found} holds {CONFIG} but no {SAFETENSORS} or {BIN}; copy the weights into it")


def _parts(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of weights ({type(error).__name__}); copy it again") from error
    for name in names:
        if Path(str(name)).name != name or not (index.parent / name).is_file():
            raise UserError(f"{index} names {name}, which is not in its folder; copy all parts of the weights into it")
    return [index.parent / name for name in names]


def _fetch(name: str) -> Path:
    try:
        folder = Path(snapshot_download(name, allow_patterns=WANTED_OF_HUB))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"{name} is neither a file or folder here nor a model of Hugging Face") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{name} is no file or folder here and could not be fetched from Hugging Face ({type(error).__name__}); "
            "connect to the network once, or give a local path"
        ) from error
    if not (folder / CONFIG).is_file():
        raise UserError(f"{name} on Hugging Face holds no {CONFIG}: it is not a model folder")
    return folder
