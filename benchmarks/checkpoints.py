"""The cases of reading checkpoints: a model out of each published form, and the memory that takes."""

from __future__ import annotations

import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import Machine
from benchmarks.measure import Workload
from ofa.checkpoint import export, load_model
from ofa.config import OFAConfig
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer

HALF, OLD = "pt, half precision", "pt before torch 1.6"
FORMS = ("safetensors", "bin", "pt", HALF, OLD)


@dataclass(frozen=True)
class CheckpointLoading:
    """A fresh process that loads a model and nothing else; its peak memory is the one that is reported.

    Attributes:
        form: one of FORMS: "bin" has the tables that published files hold, "pt" is of the original trainer, and before
            torch 1.6 it was no zip archive and cannot be mapped.
    """

    form: str
    model: str = "huge"

    @property
    def name(self) -> str:
        return f"loading {self.model}, {self.form}"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model = OFAModel(OFAConfig.from_name(self.model))
        size = sum(p.nbytes for p in model.parameters())  # before it may be halved
        path = write(model, self.form, folder)

        peaks = []

        def load() -> None:
            command = [sys.executable, "-m", "benchmarks.checkpoints", str(path)]
            peaks.append(int(subprocess.run(command, check=True, capture_output=True).stdout))

        return Workload(load, size / 1e9, "GB", lambda: max(peaks))


def write(model: OFAModel, form: str, folder: Path) -> Path:
    """The model in a published form; returns what is to be loaded."""
    if form == "safetensors":
        export(folder, model, Tokenizer.demo(), None)
        return folder
    if form == HALF:
        model.half()
    weights = {**model.state_dict(), **_tables(model.config)}
    file = folder / "weights.pt"
    content = weights if form == "bin" else {"model": weights, "args": _options(model.config)}
    torch.save(content, file, _use_new_zipfile_serialization=form != OLD)
    return file


def _tables(config: OFAConfig) -> dict[str, Tensor]:
    cells = config.image_bucket_size**2 + 1
    sides = {"image_rp_bucket": cells, "token_rp_bucket": config.max_position_embeddings}
    return {
        f"{stack}.{name}": torch.zeros(side, side, dtype=torch.long)
        for stack in ("encoder", "decoder")
        for name, side in sides.items()
    }


def _options(config: OFAConfig) -> Namespace:
    return Namespace(arch="ofa", encoder_embed_dim=config.d_model, resnet_type=config.resnet_type)


if __name__ == "__main__":
    load_model(sys.argv[1])
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(1024 * int(peak))  # not what getrusage says, which counts the process that started this one, too
