"""How a stopped run continues: its SLURM job is requeued, or the user is given the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ofa.atomic_write import atomic_write
from ofa.checkpoint import LAST, read_outline
from ofa.errors import UserError

STOPS = "stops.json"  # inside a run folder: the state in which signals have stopped the run, and how often
MAX_STOPS = 3  # in the same state: the first made progress, and two made none, of which one may be bad luck


def requeue_or_explain(config: DictConfig) -> str:
    """Requeue the SLURM job of a run that can resume by itself; returns a clause about what happens next.

    Raises:
        UserError: the job is not requeued, since its allocations make no progress.
    """
    if "resume" not in config:
        return "to get all results, start it again"
    by_hand = f"to resume: repeat the command with resume=auto {_folder()}"
    job = slurm_job_id()
    if job is None or config.resume != "auto":
        return by_hand
    if (reason := why_not_requeue(job)) is not None:
        return f"{reason}; {by_hand}"
    folder = Path(HydraConfig.get().runtime.output_dir)
    if stops_in_this_state(folder) >= MAX_STOPS:
        (folder / STOPS).unlink()  # the count restarts when the user has read the sentence
        raise UserError(
            f"job {job} is not requeued: its last {MAX_STOPS} allocations made no progress; give it more time (sbatch "
            f"--time, cluster.timeout_min) or, in training, lower save_every; {by_hand}"
        )
    requeue = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if requeue.returncode:
        return f"job {job} is not requeued ({requeue.stderr.strip()}); {by_hand}"
    return f"job {job} requeued and will resume"


def stops_in_this_state(folder: Path) -> int:
    """How many times in a row, with this one, a run was stopped with no newer checkpoint; its folder keeps count.

    Stops after which SLURM requeues the job itself do not count: it may preempt a job as often as it likes.
    """
    state: list[int | bool] = []  # one saved after a validation is further than one saved before it
    if (folder / LAST).is_file():
        checkpoint = read_outline(folder / LAST)
        state = [checkpoint["global_step"], not checkpoint.get("validates_first")]  # old checkpoints do not have it
    before = json.loads((folder / STOPS).read_text()) if (folder / STOPS).is_file() else {"state": None, "count": 0}
    count = before["count"] + 1 if before["state"] == state else 1
    atomic_write(folder / STOPS, lambda part: part.write_text(json.dumps({"state": state, "count": count})))
    return count


def _folder() -> str:
    """The override that names the folder of this run or, in a sweep, that of all its runs."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode != RunMode.MULTIRUN:
        return f"hydra.run.dir={folder}"
    return f"hydra.sweep.dir={folder.parents[len(Path(hydra.sweep.subdir).parts) - 1]}"


def slurm_job_id() -> str | None:
    """The id of the job of this process, as `scontrol` knows it; None outside of SLURM."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def why_not_requeue(job: str) -> str | None:
    """Why a process does not requeue its own job; None: it does."""
    if shutil.which("scontrol") is None:
        return f"job {job} is not requeued: there is no command scontrol here"
    shown = subprocess.run(["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True)
    if shown.returncode:
        return f"job {job} is not requeued ({shown.stderr.strip()})"
    fields = dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)
    if fields["JobState"] != "RUNNING":  # it was cancelled, or SLURM requeues it itself
        return f"SLURM is ending job {job}, and requeues it unless it was cancelled"
    if fields["Requeue"] != "1" or fields["BatchFlag"] != "1":
        return f"job {job} is not requeued: it may not be (sbatch --requeue)"
    return None
