"""Kill test of training: python run_scripts/kill_test.py --kills 50

A small run is started repeatedly with resume=auto and killed by SIGKILL, alternately at a random moment and while it
writes a checkpoint. When it ends by itself, its outputs are compared, bit for bit, with those of an uninterrupted run,
and another run begins. Processes are forked from this one, which has imported the libraries: they start in a second.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

import train  # noqa: E402
from ofa.atomic_write import part_of  # noqa: E402
from ofa.checkpoint import BEST, EXPORT, LAST  # noqa: E402
from runtime.checkpoints import PREVIOUS, verify_checkpoint  # noqa: E402

OVERRIDES = ["model=micro", "data.rows.train=64", "data.rows.evaluation=10", "task.image_size=32", "data.batch_size=8",
         "data.scenes.grid=2", "model.dropout=0.2", "ema.decay=0.9", "trainer.max_steps=20", "validate_every=7",
         "save_every=2", "trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=1",
         "resume=auto"]  # fmt: skip
FILES = ["metrics.json", "predictions.jsonl", f"{EXPORT}/model.safetensors"]  # equal byte for byte
TIMEOUT = 600  # seconds of a process


def start(folder):
    """A new process that trains in `folder`, or resumes there."""
    process = os.fork()
    if not process:
        output = os.open(f"{folder}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["train.py", *OVERRIDES, f"hydra.run.dir={folder}"]
        train.train()
        sys.stdout.flush()
        os._exit(0)
    return process


def run_until(folder, until):
    """Start a process and kill it when `until()`; whether it has ended by itself before."""
    process, deadline = start(folder), time.monotonic() + TIMEOUT
    while not until():
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            if status:
                sys.exit(f"a run has failed: {folder}.txt")
            return True
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            sys.exit(f"a run does not end: {folder}.txt")
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


def stage_of_kill(folder, parts_before):
    """What a killed process was doing, by its files; a damaged checkpoint ends this script."""
    files = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    if files and verify_checkpoint(files[0]) is not None:
        sys.exit(f"a kill has damaged {files[0]}")
    if is_writing(folder, parts_before):
        return "writing a checkpoint"
    if (folder / EXPORT).is_dir():
        return "after training"
    return "after a checkpoint" if files else "before the first checkpoint"


def parts(folder):
    """Partly written checkpoints, with the time of their last change."""
    files = [part_of(folder / name) for name in (LAST, BEST)]
    return {(file, file.stat().st_mtime_ns) for file in files if file.is_file()}


def differences(run, whole, kills):
    """The outputs of a finished run that differ from those of the uninterrupted one.

    Each kill may have cost one row of its log: that of a step whose checkpoint was just written.
    """
    found = [name for name in FILES if (run / name).read_bytes() != (whole / name).read_bytes()]
    for name in (LAST, BEST):
        states = [torch.load(folder / name, weights_only=True) for folder in (run, whole)]
        keys = ("global_step", "state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "processes")
        found += [f"{name}: {key}" for key in keys if not same(*(state[key] for state in states))]
    rows, expected = (table(folder / "metrics.csv") for folder in (run, whole))
    rest = iter(expected)
    is_in_order = all(row in rest for row in rows)
    return found if is_in_order and len(expected) - len(rows) <= kills else [*found, "metrics.csv"]


def table(file):
    """The losses and validation scores in a metrics.csv, row by row."""
    records = []
    for row in csv.DictReader(file.open()):
        for kind in ("train/", "val/"):
            values = {name: value for name, value in row.items() if value and name.startswith(kind)}
            if values and not row["testA/mean_iou"]:
                records.append({"step": row["step"], **values})
    return records


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def never():
    return False


def is_past(moment):
    return time.monotonic() > moment


def is_writing(folder, parts_before):
    return parts(folder) - parts_before


def kill_test(kills, seed, folder):
    """Kill runs, print when; end with an error if one did harm."""
    generator = random.Random(seed)
    began = time.monotonic()
    run_until(folder / "whole", until=never)
    seconds = time.monotonic() - began
    stages, runs, is_over = Counter(), 0, False
    while not is_over:
        run, killed = folder / f"run{runs}", stages.total()
        parts_before = parts(run)
        if killed == kills:  # the last run is not killed
            until = never
        elif killed % 2:
            until = partial(is_past, time.monotonic() + generator.uniform(0, seconds))
        else:
            until = partial(is_writing, run, parts_before)
        if not run_until(run, until):
            stages[stage_of_kill(run, parts_before)] += 1
            continue
        if different := differences(run, folder / "whole", kills):
            sys.exit(f"{run} differs from {folder / 'whole'} in {', '.join(different)}")
        shutil.rmtree(run)
        runs += 1
        is_over = killed == kills
    print(f"{kills} kills: " + ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items())))
    print(f"{runs} runs ended: all weights, states, scores and predictions equal those of the uninterrupted run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of the runs; each is deleted when it has ended")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill_test_") as temporary:
        os.environ.setdefault("OFA_CACHE", f"{temporary}/cache")
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        kill_test(arguments.kills, arguments.seed, folder.resolve())
