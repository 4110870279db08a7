"""What the machine can do at the moment: the denominators of every benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import Machine, count_operations


@dataclass(frozen=True)
class Rates:
    """GFLOP/s of a product of two square matrices, and of a 3x3 and a 1x1 convolution of a ResNet's third stage."""

    matrix: float
    convolution_3x3: float
    convolution_1x1: float

    @property
    def convolution(self) -> float:
        """Of as many operations in 3x3 as in 1x1 convolutions: about what a bottleneck block consists of."""
        return 2 / (1 / self.convolution_3x3 + 1 / self.convolution_1x1)

    @classmethod
    def median(cls, rates: Sequence[Rates]) -> Rates:
        """The median of each rate."""
        return cls(*map(median, zip(*map(astuple, rates), strict=True)))


class RateMeter:
    """Measures rates again and again.

    Args:
        machine: where, and in which precision.
        width: rows and columns of the matrices.
        batch: pictures a convolution reads.
        side: pixels a side of what it reads; 24 is the third stage of a picture of 384 px.
        channels: of its 3x3 convolution, and a quarter of those that its 1x1 convolution reads.
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
        # The counted run wakes caches and clocks for the timed one.
        return Rates(*(count_operations(run) / self.machine.seconds(run) / 1e9 for run in runs))

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.machine.device, dtype=self.machine.dtype)

    def _random_channels_last(self, *shape: int) -> Tensor:
        return self._random(*shape).contiguous(memory_format=torch.channels_last)
