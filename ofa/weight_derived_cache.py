"""Values that follow from the weights alone, kept between the batches of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from torch import Tensor

Value = TypeVar("Value")


class WeightDerivedCache(Generic[Value]):
    """One value, made anew when the weights it follows from have changed or another is asked for.

    A change is seen by the version that PyTorch counts for in-place operations (optimizer steps, `load_state_dict`) and
    by the place in memory (moves to a device). The owner clears it when its mode changes, to free the memory, too.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets the value."""
        self._key: Hashable = None
        self._value: Value | None = None

    def get(self, what: Hashable, weights: Iterable[Tensor], make: Callable[[], Value]) -> Value:
        """The value kept for `what` and these weights, else that of `make`, which is kept from now on."""
        key = (what, *((tensor.data_ptr(), tensor._version) for tensor in weights))
        if key != self._key:
            self._key, self._value = key, make()
        return self._value
