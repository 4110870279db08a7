"""Safe reading of published pickles: `load_plain_pickle`.

A pickle calls whatever function it names. Here the few names that plain data needs stand for harmless functions or
types; any other name is an error.
"""

import io
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ofa.errors import UserError

_BUILTINS = ("builtins", "__builtin__")  # the second is Python 2's name
NUMPY_SCALARS = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2
# Built-in types cannot be changed by a pickle, and making one of plain values executes nothing else.
_TYPES = (set, frozenset, bytes, complex)
# Factories of a defaultdict; not needed, since it becomes a dict.
_FACTORIES = ("int", "long", "float", "bool", "str", "list", "dict", "tuple")


class NumberType:
    """Stands for a pickled NumPy dtype: the code, "f8", comes first, its byte order as state."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        """The type it stands for; TypeError or ValueError if there is none, or it is not numeric."""
        dtype = np.dtype(self.code).newbyteorder(self.order)
        if dtype.kind not in "biufc":
            raise ValueError(f"a NumPy value of type {self.code} is not a number")
        return dtype


def number(number_type: NumberType, data: bytes) -> Any:
    """A pickled NumPy scalar as the number it is; TypeError or ValueError if it is none."""
    return np.frombuffer(data, number_type.dtype(), count=1)[0].item()


def load_plain_pickle(path: str | Path) -> Any:
    """The value of a pickle of plain data, of any protocol, Python 2's included.

    A defaultdict, OrderedDict or Counter becomes a dict, a NumPy scalar a number. Byte strings that Python 2 wrote
    become text: all of them read as UTF-8, or all as Latin-1 if one of them is not UTF-8.

    Raises:
        UserError: the file cannot be read, is not a whole pickle, or names anything else, which was not executed.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    try:
        try:
            return _PlainUnpickler(io.BytesIO(content), path, "utf-8").load()
        except UnicodeDecodeError:
            return _PlainUnpickler(io.BytesIO(content), path, "latin-1").load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle may raise anything, as pickle's documentation warns
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is not a whole pickle of plain data ({reason}): is the file complete?") from error


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._path = path
        self._known = _harmless_functions(encoding)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise UserError(
                f"{self._path} was not read: it names {module}.{name}, which could execute code; "
                "only dicts, lists, tuples, sets, strings, bytes, numbers, bools and None are read"
            )
        return self._known[module, name]


def _harmless_functions(encoding: str) -> dict[tuple[str, str], Callable | None]:
    """What stands for the names in plain data; functions are new ones, for a pickle may set a function's attributes.

    Python 2's byte strings, among them the data of its NumPy scalars, are read in `encoding`.
    """

    def scalar(number_type: NumberType, data: bytes | str) -> Any:
        return number(number_type, data.encode(encoding) if isinstance(data, str) else data)

    return {
        **dict.fromkeys(itertools.product(_BUILTINS, _FACTORIES)),
        **{(module, kind.__name__): kind for module in _BUILTINS for kind in _TYPES},
        **dict.fromkeys((("collections", "OrderedDict"), ("collections", "Counter")), dict),
        ("collections", "defaultdict"): lambda factory=None, *items: dict(*items),
        ("_codecs", "encode"): lambda text, _: text.encode("latin-1"),  # how protocols 0 to 2 write bytes
        ("numpy", "dtype"): lambda *arguments: NumberType(*arguments),
        **{(module, "scalar"): scalar for module in NUMPY_SCALARS},
    }
