"""Where a benchmark runs, and the three things it reads there: time, peak memory, counted operations."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from tracking.memory import peak_resident_bytes

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Machine:
    """A device ("cpu", "cuda") and a precision ("float32", "bf16")."""

    device: str = "cpu"
    precision: str = "float32"

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def autocast(self) -> torch.autocast:
        """The context for a forward pass; does nothing in float32."""
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)

    def seconds(self, run: Callable[[], object]) -> float:
        """How long `run` takes, the work it leaves queued on the device included."""
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - start

    def peak_memory(self) -> int:
        """The most bytes this process has held so far: of the GPU's memory there, resident memory on a CPU."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return peak_resident_bytes()

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def count_operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in `run`; m*n*k products count 2."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
