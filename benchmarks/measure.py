"""One case, measured: its repetitions, and the machine's rates between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

from benchmarks.machine import Machine, count_operations
from benchmarks.rates import RateMeter, Rates


@dataclass(frozen=True)
class Workload:
    """What is timed: a call of `run` gets `items` of `unit` done; `peak_memory` is that of processes it starts."""

    run: Callable[[], object]
    items: float
    unit: str = "samples"
    peak_memory: Callable[[], int] | None = None


class Case(Protocol):
    """A benchmark with its sizes, which are fields, so that tests can make them small."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        """Makes everything that is not to be timed; `folder` is for files."""


@dataclass(frozen=True)
class Measurement:
    """What was found: time of each repetition, operations of one, the machine's rates and the peak memory."""

    case: str
    unit: str
    items: float
    seconds: list[float]
    operations: int
    rates: Rates
    peak_memory: int

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def items_per_second(self) -> float:
        return self.items / self.median

    @property
    def gflops(self) -> float:
        """10^9 counted operations a second."""
        return self.operations / self.median / 1e9


def measure(case: Case, machine: Machine, repetitions: int, folder: Path) -> Measurement:
    """Times `case`. The machine's rates are read before each repetition, so that both see the same neighbours."""
    workload = case.prepare(machine, folder)
    workload.run()  # before counting: processes that are forked now and kept must not inherit the counter
    operations = count_operations(workload.run)
    meter = RateMeter(machine)
    rates, seconds = [], []
    for _ in range(repetitions):
        rates.append(meter.measure())
        seconds.append(machine.seconds(workload.run))
    peak_memory = (workload.peak_memory or machine.peak_memory)()
    return Measurement(case.name, workload.unit, workload.items, seconds, operations, Rates.median(rates), peak_memory)
