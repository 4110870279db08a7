"""What the published data sets have in common: folders and JSON files where their authors put them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from ofa.errors import UserError

Kind = TypeVar("Kind")


def find_folder(root: Path, name: str, content: str) -> Path:
    """`root/name`, or `root` itself where it has no such folder in it.

    Raises:
        UserError: `root` is no folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected is one that holds {name}/ with {content}")
    return root / name if (root / name).is_dir() else root


def require_file(path: Path, content: str) -> Path:
    """The path, if there is such a file.

    Raises:
        UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected is there {content}")
    return path


def read_json(path: Path) -> Any:
    """The content of a file.

    Raises:
        UserError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); is the file complete?") from error


def of_kind(kind: type[Kind], content: Any, path: Path, expected: str) -> Kind:
    """The content of a file, if it is of the kind it should be.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(content, kind):
        raise UserError(f"{path} holds a {type(content).__name__}, not {expected}")
    return content
