"""Measurements as figures and as a table, compared with the published implementation where its time is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.measure import Machine, Measurement

# Seconds of the published implementation, and our target as a share of them: OFA-tiny, batch 8 (distilled from base:
# 4), float32, two cores with a matrix-product rate of 150 GFLOP/s.
PUBLISHED_RATE = 150.0
PUBLISHED = {
    "training step, 384 px": (10.4, 0.6),
    "distillation step, 384 px, batch 4": (7.3, 0.6),
    "distillation step, 384 px, batch 4, teacher bf16-true": (7.3, 0.6),
    "encoder, 384 px": (2.5, 0.7),
    "encoder, 512 px": (7.0, 0.7),
    "decoding, 384 px, 5 beams x 16 tokens": (6.3, 0.15),
    "decoding, 512 px, 5 beams x 4 bins": (5.3, 0.15),
}

# Cases compared with another one of the same run: its name, and our target as a share of its time.
COMPARED = {
    "distillation step, 384 px, batch 4, cached": ("plain step, 384 px, batch 4", 1.1),
    "scoring, 480 px, 3129 answers": ("encoder, 480 px", 3.0),
    "loss over 3129 answers, tree": ("loss over 3129 answers, masked vocabulary", 1.0),
}


def figures(measurement: Measurement, machine: Machine) -> dict[str, Any]:
    """The values of the table and their inputs; None where there is nothing to compare with."""
    rates, seconds = measurement.rates, median(measurement.seconds)
    gflops = measurement.operations / seconds / 1e9
    comparable = machine == Machine("cpu", "float32") and measurement.case in PUBLISHED
    published, target = PUBLISHED[measurement.case] if comparable else (None, None)
    scaled = published and published * PUBLISHED_RATE / rates.matrix
    return {
        **asdict(measurement),
        "rates": {**asdict(rates), "convolution": rates.convolution},
        "median_seconds": seconds,
        "items_per_second": measurement.items / seconds,
        "gflops": gflops or None,
        "share_of_matrix_rate": gflops / rates.matrix or None,
        "share_of_convolution_rate": gflops / rates.convolution or None,
        "published_seconds_scaled": scaled,
        "ratio": scaled and seconds / scaled,
        "target": target,
    }


def compare(rows: Sequence[dict[str, Any]]) -> None:
    """Adds `compared_with`, `ratio` and `target` to the figures of cases compared with another one of the same run."""
    by_case = {row["case"]: row for row in rows}
    for name, (other, target) in COMPARED.items():
        if name in by_case and other in by_case:
            ratio = by_case[name]["median_seconds"] / by_case[other]["median_seconds"]
            by_case[name] |= {"compared_with": other, "ratio": ratio, "target": target}


def table(rows: Sequence[dict[str, Any]], machine: Machine) -> Table:
    """`figures`, one line for each case."""
    result = Table(
        title=f"{machine.device}, {machine.precision}",
        caption="matrix, conv: GFLOP/s as a share of the machine's rate then; published: its seconds at that rate; "
        "ratio: to these or, where there are none, to " + "; ".join(f"{o} ({n})" for n, (o, _) in COMPARED.items()),
    )
    columns = ("items/s", "seconds (min..max)", "GFLOP/s", "matrix", "conv", "published", "ratio", "target", "GB")
    for column in ("case", *columns):
        result.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        seconds = row["seconds"]
        result.add_row(
            row["case"],
            f"{row['items_per_second']:.4g} {row['unit']}",
            f"{row['median_seconds']:.3g} ({min(seconds):.3g}..{max(seconds):.3g})",
            _shown(row["gflops"], ".0f"),
            _shown(row["share_of_matrix_rate"], ".0%"),
            _shown(row["share_of_convolution_rate"], ".0%"),
            _shown(row["published_seconds_scaled"], ".3g"),
            _shown(row["ratio"], ".2f"),
            _shown(row["target"], ".2f"),
            f"{row['peak_memory'] / 1e9:.2f}",
        )
    return result


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
