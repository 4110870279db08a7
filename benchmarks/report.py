"""Measurements as a table and as plain figures, beside the published implementation where its time is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from benchmarks.machine import Machine
from benchmarks.measure import Measurement


@dataclass(frozen=True)
class Published:
    """The published implementation's time, and the share of it that ours is to stay under."""

    seconds: float
    target: float


# OFA-tiny, batch 8 (distilled from OFA-base: 4), float32, on two cores whose matrix-product rate was 150 GFLOP/s then.
PUBLISHED_RATE = 150.0
PUBLISHED = {
    "training step, 384 px": Published(10.4, target=0.6),
    "distillation step, 384 px, batch 4": Published(7.3, target=0.6),
    "distillation step, 384 px, batch 4, teacher bf16-true": Published(7.3, target=0.6),
    "encoder, 384 px": Published(2.5, target=0.7),
    "encoder, 512 px": Published(7.0, target=0.7),
    "decoding, 384 px, 5 beams x 16 tokens": Published(6.3, target=0.15),
    "decoding, 512 px, 5 beams x 4 bins": Published(5.3, target=0.15),
}

# Cases that are compared with another one of the same run: its name, and the share of its time to stay under.
COMPARED = {
    "distillation step, 384 px, batch 4, cached": ("plain step, 384 px, batch 4", 1.1),
    "scoring, 480 px, 3129 answers": ("encoder, 480 px", 3.0),
    "loss over 3129 answers, tree": ("loss over 3129 answers, masked vocabulary", 1.0),
}


def figures(measurement: Measurement, machine: Machine) -> dict[str, Any]:
    """Everything the table shows and what it was computed from; None where there is nothing to compare with."""
    rates, gflops = measurement.rates, measurement.gflops
    published = PUBLISHED.get(measurement.case) if machine == Machine("cpu", "float32") else None
    scaled = published and published.seconds * PUBLISHED_RATE / rates.matrix
    return {
        **asdict(measurement),
        "rates": {**asdict(rates), "convolution": rates.convolution},
        "median_seconds": measurement.median,
        "items_per_second": measurement.items_per_second,
        "gflops": gflops or None,
        "share_of_matrix_rate": gflops / rates.matrix or None,
        "share_of_convolution_rate": gflops / rates.convolution or None,
        "published_seconds_scaled": scaled,
        "ratio": scaled and measurement.median / scaled,
        "target": published and published.target,
    }


def compare(rows: Sequence[dict[str, Any]]) -> None:
    """Adds `compared_with`, `ratio` and `target` to the figures of cases that have their measure in the same run."""
    by_case = {row["case"]: row for row in rows}
    for name, (other, target) in COMPARED.items():
        if name in by_case and other in by_case:
            ratio = by_case[name]["median_seconds"] / by_case[other]["median_seconds"]
            by_case[name] |= {"compared_with": other, "ratio": ratio, "target": target}


def table(rows: Sequence[dict[str, Any]], machine: Machine) -> Table:
    """`figures` of each case, one a line."""
    result = Table(
        title=f"{machine.device}, {machine.precision}",
        caption="matrix, conv: GFLOP/s as a share of the machine's rate then; published: its seconds at that rate; "
        "ratio: to these or, where there are none, to " + "; ".join(f"{o} ({n})" for n, (o, _) in COMPARED.items()),
    )
    result.add_column("case")
    columns = ("items/s", "seconds (min..max)", "GFLOP/s", "matrix", "conv", "published", "ratio", "target", "GB")
    for column in columns:
        result.add_column(column, justify="right")
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
