"""Measurements: the machine, its rates, and one case between them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tracking.tracking import peak_resident_bytes

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Machine:
    """A device ("cpu", "cuda") and a precision ("float32", "bf16")."""

    device: str = "cpu"
    precision: str = "float32"

    def autocast(self) -> torch.autocast:
        """The context for a forward pass; does nothing in float32."""
        return torch.autocast(self.device, PRECISIONS[self.precision], enabled=self.precision != "float32")

    def seconds(self, run: Callable[[], object]) -> float:
        """The duration of `run`, including the work that it leaves queued on the device."""
        wait = torch.cuda.synchronize if self.device == "cuda" else lambda: None
        wait()
        start = time.perf_counter()
        run()
        wait()
        return time.perf_counter() - start

    def peak_memory(self) -> int:
        """Peak bytes of this process so far: of GPU memory, or on a CPU of resident memory."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else peak_resident_bytes()


def count_operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in `run`: 2 for each product."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@dataclass(frozen=True)
class Rates:
    """GFLOP/s of a product of two square matrices, and of a 3x3 and a 1x1 convolution of a ResNet's third stage."""

    matrix: float
    convolution_3x3: float
    convolution_1x1: float

    @property
    def convolution(self) -> float:
        """The rate of equally many operations in 3x3 and 1x1 convolutions, about the mix of a bottleneck block."""
        return 2 / (1 / self.convolution_3x3 + 1 / self.convolution_1x1)


class RateMeter:
    """Repeated measurements of the rates, which are the denominators of every benchmark.

    Args:
        machine: device and precision.
        width: rows and columns of the matrices.
        batch: images in a batch of the convolutions.
        side: height and width of their input; 24 is the third stage of an image of 384 px.
        channels: input channels of the 3x3 convolution; the 1x1 convolution has four times as many.
    """

    def __init__(
        self, machine: Machine, *, width: int = 2048, batch: int = 8, side: int = 24, channels: int = 256
    ) -> None:
        self.machine = machine
        self.matrices = self._random(width, width), self._random(width, width)
        self.narrow = self._random_channels_last(batch, channels, side, side)
        self.wide = self._random_channels_last(batch, 4 * channels, side, side)
        self.kernel_3x3 = self._random_channels_last(channels, channels, 3, 3)
        self.kernel_1x1 = self._random_channels_last(channels, 4 * channels, 1, 1)

    @torch.inference_mode()
    def measure(self) -> Rates:
        runs = (
            lambda: torch.mm(*self.matrices),
            lambda: F.conv2d(self.narrow, self.kernel_3x3, padding=1),
            lambda: F.conv2d(self.wide, self.kernel_1x1),
        )
        # The counted run warms up caches and clocks for the timed one.
        return Rates(*(count_operations(run) / self.machine.seconds(run) / 1e9 for run in runs))

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.machine.device, dtype=PRECISIONS[self.machine.precision])

    def _random_channels_last(self, *shape: int) -> Tensor:
        return self._random(*shape).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Workload:
    """The timed function: a call of `run` processes `items` of `unit`; `peak_memory` is that of processes it starts."""

    run: Callable[[], object]
    items: float
    unit: str = "samples"
    peak_memory: Callable[[], int] | None = None


@dataclass(frozen=True)
class Case(ABC):
    """A benchmark; its sizes are fields, so that tests can make them small. `label` is its name in the report."""

    label: ClassVar[str]

    @property
    def name(self) -> str:
        return self.label.format(**vars(self))

    @abstractmethod
    def prepare(self, machine: Machine, folder: Path) -> Workload:
        """Prepares everything that is not timed; `folder` is for files."""


@dataclass(frozen=True)
class Measurement:
    """Results: seconds of each repetition, operations of one, the machine's rates and the peak memory in bytes."""

    case: str
    unit: str
    items: float
    seconds: list[float]
    operations: int
    rates: Rates
    peak_memory: int


def measure(case: Case, machine: Machine, repetitions: int, folder: Path) -> Measurement:
    """Times `case`. Rates are measured before each repetition, so that other load affects both alike."""
    workload = case.prepare(machine, folder)
    workload.run()  # before counting: data workers forked here must not inherit the counter
    operations = count_operations(workload.run)
    meter = RateMeter(machine)
    rates, seconds = [], []
    for _ in range(repetitions):
        rates.append(meter.measure())
        seconds.append(machine.seconds(workload.run))
    peak_memory = (workload.peak_memory or machine.peak_memory)()
    medians = Rates(*map(median, zip(*map(astuple, rates), strict=True)))
    return Measurement(case.name, workload.unit, workload.items, seconds, operations, medians, peak_memory)
