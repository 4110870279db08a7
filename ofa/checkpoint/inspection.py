"""What a checkpoint is, as tables to read: `describe`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.table import Table

from ofa.checkpoint.content import Checkpoint, TensorInfo
from ofa.checkpoint.fitting import LoadReport, listed
from ofa.checkpoint.loading import task_of
from ofa.config import SIZES, OFAConfig
from ofa.errors import UserError
from ofa.model import OFAModel

ARCHITECTURE = ("d_model", "encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "decoder_layers",
                "decoder_ffn_dim", "decoder_attention_heads", "resnet_type")  # fmt: skip


def describe(path: str | Path) -> list[Table]:
    """Tables of what `path`, as `find` takes it, holds, and of what loading would make of it.

    Raises:
        UserError: it cannot be read or is no checkpoint.
    """
    checkpoint = Checkpoint.open(path)
    stored = checkpoint.listing.stored
    try:
        config = checkpoint.config()
    except UserError as error:
        return [_table("file", _of_file(checkpoint)), _table("loading", [("refused", str(error))])]
    with torch.device("meta"):
        model = OFAModel(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = [*_of_file(checkpoint), ("size", _size_name(config)), ("parameters", f"{parameters:,}")]
    architecture = [(key, _shown(value)) for key, value in config.to_dict().items()]
    fit = LoadReport.of(checkpoint, model)
    return [
        _table("file", facts),
        _table("architecture", architecture),
        _table("loading", _of_loading(fit, stored)),
    ]


def _of_file(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    form, stored = checkpoint.form, checkpoint.listing.stored
    precisions = Counter()
    for weight in stored.values():
        precisions[str(weight.dtype).removeprefix("torch.")] += math.prod(weight.shape)
    task = task_of(checkpoint)
    return [
        ("path", str(checkpoint.path)),
        ("form", form.name),
        ("precision", ", ".join(f"{name} ({count:,})" for name, count in precisions.most_common())),
        ("task", form.task or "not said" if task is None else json.dumps(dataclasses.asdict(task), ensure_ascii=False)),
        ("EMA weights", "they are the weights" if form.averaged else "there" if form.ema else "none"),
        ("optimizer", "there" if form.optimizer else "none"),
    ]


def _of_loading(fit: LoadReport, stored: dict[str, TensorInfo]) -> Iterator[tuple[str, str]]:
    listing = fit.checkpoint.listing
    prefix = fit.checkpoint.form.prefix
    renamed = [weight.name for ours, weight in stored.items() if weight.name.removeprefix(prefix) != ours]
    added = [f"{name}: {stored[name].shape[0]} to {shape[0]} rows" for name, shape in fit.resized.items()]
    for what, names in (
        ("renamed", renamed),
        ("added", [*added, *fit.counters]),
        ("dropped, being computed or tied", [*listing.dropped, *listing.tied]),
        ("missing", fit.missing),
        ("unexpected", fit.unexpected),
        ("of another shape", fit.misfits),
    ):
        yield what, f"{len(names)}: {listed(names)}" if names else "none"
    yield "refused", "yes" if fit.missing or fit.unexpected or fit.misfits else "no"


def _size_name(config: OFAConfig) -> str:
    for name in SIZES:
        published = OFAConfig.from_name(name)
        if all(getattr(config, key) == getattr(published, key) for key in ARCHITECTURE):
            return name
    return "none of the published ones"


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(title: str, rows: Sequence[tuple[str, str]] | Iterator[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table
