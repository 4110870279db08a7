"""Cases of loading checkpoints in each published format, with the memory needed."""

from __future__ import annotations

import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.measure import Case, Machine, Workload
from ofa.checkpoint import export, load_model
from ofa.config import OFAConfig
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer

HALF, OLD = "pt, half precision", "pt before torch 1.6"
FORMS = ("safetensors", "bin", "pt", HALF, OLD)


@dataclass(frozen=True)
class CheckpointLoading(Case):
    """A new process that only loads a model; its peak memory is reported.

    Attributes:
        form: one of FORMS: "bin" includes the computed tables of published files; "pt" is of the original trainer, and
            before torch 1.6 it was not a zip archive and cannot be memory-mapped.
    """

    form: str
    model: str = "huge"

    label = "loading {model}, {form}"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model = OFAModel(OFAConfig.from_name(self.model))
        size = sum(p.nbytes for p in model.parameters())  # in single precision
        path = write(model, self.form, folder)

        peaks = []

        def load() -> None:
            command = [sys.executable, "-m", "benchmarks.checkpoints", str(path)]
            peaks.append(int(subprocess.run(command, check=True, capture_output=True).stdout))

        return Workload(load, size / 1e9, "GB", lambda: max(peaks))


def write(model: OFAModel, form: str, folder: Path) -> Path:
    """Writes the model in a published format; returns the path to load."""
    if form == "safetensors":
        export(folder, model, Tokenizer.demo(), None)
        return folder
    if form == HALF:
        model.half()
    config, file = model.config, folder / "weights.pt"
    sides = {"image_rp_bucket": config.image_bucket_size**2 + 1, "token_rp_bucket": config.max_position_embeddings}
    tables = {
        f"{stack}.{name}": torch.zeros(side, side, dtype=torch.long)
        for stack in ("encoder", "decoder")
        for name, side in sides.items()
    }
    weights = {**model.state_dict(), **tables}
    options = Namespace(arch="ofa", encoder_embed_dim=config.d_model, resnet_type=config.resnet_type)
    content = weights if form == "bin" else {"model": weights, "args": options}
    torch.save(content, file, _use_new_zipfile_serialization=form != OLD)
    return file


if __name__ == "__main__":
    load_model(sys.argv[1])
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(1024 * int(peak))  # getrusage would count the parent process, too
