"""Descriptions of checkpoints as tables: `describe`."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from ofa.checkpoint.formats import Checkpoint
from ofa.checkpoint.loading import LoadReport, shorten, stored_task, without_weights
from ofa.config import SIZES, OFAConfig
from ofa.errors import UserError

ARCHITECTURE = ("d_model", "encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "decoder_layers",
                "decoder_ffn_dim", "decoder_attention_heads", "resnet_type")  # fmt: skip


def describe(path: str | Path) -> list[Table]:
    """Tables of the content of a checkpoint (see `find`), and of the result of loading it."""
    checkpoint = Checkpoint.open(path)
    try:
        config = checkpoint.config()
    except UserError as error:
        return [_table("file", _file(checkpoint)), _table("loading", [("refused", str(error))])]
    model = without_weights(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    settings = {key: f"{v:g}" if isinstance(v, float) else str(v) for key, v in config.to_dict().items()}
    return [
        _table("file", [*_file(checkpoint), ("size", _size_name(config)), ("parameters", f"{parameters:,}")]),
        _table("architecture", settings.items()),
        _table("loading", _loading(LoadReport.of(checkpoint, model))),
    ]


def _file(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    format = checkpoint.format
    precisions = Counter()
    for weight in checkpoint.index.stored.values():
        precisions[str(weight.dtype).removeprefix("torch.")] += math.prod(weight.shape)
    task = stored_task(checkpoint)
    shown = format.task or "unknown" if task is None else json.dumps(dataclasses.asdict(task), ensure_ascii=False)
    return [
        ("path", str(checkpoint.path)),
        ("format", format.name),
        ("precision", ", ".join(f"{name} ({count:,})" for name, count in precisions.most_common())),
        ("task", shown),
        ("EMA weights", "the weights are averaged" if format.averaged else "present" if format.ema else "none"),
        ("optimizer", "present" if format.optimizer else "none"),
    ]


def _loading(report: LoadReport) -> Iterable[tuple[str, str]]:
    index, prefix = report.checkpoint.index, report.checkpoint.format.prefix
    stored = index.stored
    renamed = [weight.name for ours, weight in stored.items() if weight.name.removeprefix(prefix) != ours]
    added = [f"{name}: {stored[name].shape[0]} to {shape[0]} rows" for name, shape in report.resized.items()]
    for what, names in (
        ("renamed", renamed),
        ("added", [*added, *report.counters]),
        ("dropped (computed or tied)", [*index.dropped, *index.tied]),
        ("missing", report.missing),
        ("unexpected", report.unexpected),
        ("of another shape", report.misfits),
    ):
        yield what, f"{len(names)}: {shorten(names)}" if names else "none"
    yield "refused", "yes" if report.missing or report.unexpected or report.misfits else "no"


def _size_name(config: OFAConfig) -> str:
    for name in SIZES:
        published = OFAConfig.from_name(name)
        if all(getattr(config, key) == getattr(published, key) for key in ARCHITECTURE):
            return name
    return "not a published one"


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table
