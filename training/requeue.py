"""How a run that was interrupted goes on: its job in SLURM's queue again, or the command that its user types."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig


def how_it_goes_on(config: DictConfig) -> str:
    """The sentence for the user; a job of SLURM that can go on by itself is put into the queue again before."""
    if "resume" not in config:
        return "to have all of it, start it again"
    by_hand = f"to go on, give the same words with resume=auto {_folder()}"
    job = job_of_slurm()
    return by_hand if job is None or config.resume != "auto" else requeue(job, by_hand)


def _folder() -> str:
    """The word that names the folder of this run or, in a sweep, that of all its runs."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode != RunMode.MULTIRUN:
        return f"hydra.run.dir={folder}"
    return f"hydra.sweep.dir={folder.parents[len(Path(hydra.sweep.subdir).parts) - 1]}"


def job_of_slurm() -> str | None:
    """The number of the job that this process belongs to, by which `scontrol` knows it; None outside of SLURM."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue(job: str, by_hand: str) -> str:
    """Puts a job into the queue again, where that is right, and says what came of it.

    It is not where the job was cancelled or SLURM queues it again itself: then it is not called running any more.

    Args:
        job: its number.
        by_hand: the sentence that says how to go on otherwise.
    """
    if shutil.which("scontrol") is None:
        return f"job {job} of SLURM is not queued again, since there is no command scontrol here; {by_hand}"
    shown = subprocess.run(["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True)
    if shown.returncode:
        return f"job {job} of SLURM is not queued again ({shown.stderr.strip()}); {by_hand}"
    fields = dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)
    if fields["JobState"] != "RUNNING":
        return f"SLURM is ending job {job}, and queues it again or, where it was cancelled, does not; {by_hand}"
    if fields["Requeue"] != "1" or fields["BatchFlag"] != "1":
        return f"job {job} of SLURM is not one that may be queued again (sbatch --requeue); {by_hand}"
    asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if asked.returncode:
        return f"job {job} of SLURM is not queued again ({asked.stderr.strip()}); {by_hand}"
    return f"job {job} of SLURM is in the queue again and goes on with it"
