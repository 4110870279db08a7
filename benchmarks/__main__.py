"""The command: `python -m benchmarks`, `python -m benchmarks training_step encoder --json figures.json`."""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.checkpoints import FORMS, CheckpointLoading
from benchmarks.compute import Candidates, CaptionScoring, Decoding, Encoding, MaskedLoss, TrainingStep, TreeLoss
from benchmarks.distillation import CachedStep, DistillationStep, PlainStep
from benchmarks.loading import Indexing, Loading, Preparing
from benchmarks.measure import PRECISIONS, Case, Machine, Measurement, RateMeter, measure
from benchmarks.report import compare, figures, table
from ofa.vocabulary import BINS

ON_REQUEST = ("checkpoints",)  # minutes and 5 GB of disk: run only when named

CASES: dict[str, list[Case]] = {
    "training_step": [TrainingStep(384)],
    "distillation": [DistillationStep(), DistillationStep(teacher_precision="bf16-true"), CachedStep(), PlainStep()],
    "encoder": [Encoding(384), Encoding(512)],
    "beam_search": [Decoding(384), Decoding(512, kind="bins", tokens=4, constraint_range=BINS)],
    "constrained_loss": [TreeLoss(), MaskedLoss()],
    "candidates": [Encoding(480), Candidates()],
    "cider": [CaptionScoring()],
    "checkpoints": [CheckpointLoading(form) for form in FORMS],
    "data_loading": [Loading(workers=0), Loading(workers=2), Indexing()],
    "prepare": [Preparing(workers=1), Preparing(workers=2), Preparing(workers=1, max_side=512, rows=200)],
}


def main() -> None:
    arguments = parse_arguments()
    machine = Machine(arguments.device, arguments.precision)
    names = arguments.names or [name for name in CASES if name not in ON_REQUEST]
    cases = [case for name in names for case in CASES[name]]
    torch.set_num_threads(arguments.threads)
    console = Console(width=None if Console().is_terminal else 150)

    for precision in PRECISIONS if machine.device == "cuda" else [machine.precision]:
        rates = RateMeter(Machine(machine.device, precision)).measure()
        console.print(
            f"{machine.device}, {arguments.threads} threads, {precision}: matrix products {rates.matrix:.0f}, 3x3 "
            f"convolutions {rates.convolution_3x3:.0f}, 1x1 convolutions {rates.convolution_1x1:.0f} GFLOP/s"
        )
    rows = []
    for case in track(cases, "measuring", console=Console(stderr=True), transient=True):
        measurement = measure_in_subprocess(case, machine, arguments.threads, arguments.repetitions)
        rows.append(figures(measurement, machine))
    compare(rows)
    console.print(table(rows, machine))
    if arguments.json:
        report = {**asdict(machine), "threads": arguments.threads, "torch": torch.__version__, "cases": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory of the parts.")
    cases = f"{', '.join(CASES)}; none: all but {', '.join(ON_REQUEST)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=cases)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU, default %(default)s")
    parser.add_argument("--repetitions", type=int, default=5, help="the median of which is shown, default %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in CASES:
            parser.error(f"{name!r} is not one of {', '.join(CASES)}")
    return arguments


def measure_in_subprocess(case: Case, machine: Machine, threads: int, repetitions: int) -> Measurement:
    """Measures in a process of its own, so that the peak memory is that of this case only."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) as process,
    ):
        return process.submit(measure, case, machine, repetitions, Path(folder)).result()


if __name__ == "__main__":
    main()
