"""Cache of values computed from weights, for use in several batches of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from torch import Tensor

Value = TypeVar("Value")


class WeightDerivedCache(Generic[Value]):
    """One value, computed again when its weights have changed or another key is requested.

    A change is seen by the version that PyTorch counts for in-place operations (optimizer steps, `load_state_dict`) and
    by the memory address (moves to a device). The owner clears it in `train()`, to free the memory, too.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Drop the value."""
        self._key: Hashable = None
        self._value: Value | None = None

    def get(self, what: Hashable, weights: Iterable[Tensor], make: Callable[[], Value]) -> Value:
        """The cached value for `what` and these weights, else that of `make`, which is cached."""
        key = (what, *((tensor.data_ptr(), tensor._version) for tensor in weights))
        if key != self._key:
            self._key, self._value = key, make()
        return self._value
