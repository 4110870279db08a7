"""How a run that was interrupted goes on: its job in SLURM's queue again, or the command that its user types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ofa.atomic_write import atomic_write
from ofa.checkpoint import LAST, read_outline
from ofa.errors import UserError

STOPS = "stops.json"  # inside a run folder: the state in which signals have stopped the run, and how often
SAME_STOPS = 3  # in the same state: a turn has come so far, and two have come no further, of which one may be bad luck


def requeue_or_explain(config: DictConfig) -> str:
    """The sentence for the user; a job of SLURM that can go on by itself is put into the queue again before.

    Raises:
        UserError: it is not, since its turns come no further.
    """
    if "resume" not in config:
        return "to have all of it, start it again"
    by_hand = f"to go on, give the same words with resume=auto {_folder()}"
    job = slurm_job_id()
    if job is None or config.resume != "auto":
        return by_hand
    reason = why_not_by_itself(job)
    if reason is not None:
        return f"{reason}; {by_hand}"
    folder = Path(HydraConfig.get().runtime.output_dir)
    if stops_in_this_state(folder) >= SAME_STOPS:
        (folder / STOPS).unlink()  # whoever has read the sentence begins anew
        raise UserError(
            f"job {job} of SLURM is not queued again, for {SAME_STOPS} turns in a row were stopped in the same state; "
            f"give them more time (sbatch --time, cluster.timeout_min) or, in training, lower save_every, and {by_hand}"
        )
    asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if asked.returncode:
        return f"job {job} of SLURM is not queued again ({asked.stderr.strip()}); {by_hand}"
    return f"job {job} of SLURM is in the queue again and goes on with it"


def stops_in_this_state(folder: Path) -> int:
    """How many times in a row, with this one, a run was stopped with nothing newer saved; its folder keeps count.

    Stops behind which SLURM queues the job itself are not counted: it may pre-empt it as often as it likes.
    """
    state = _saved_state(folder / LAST)
    before = json.loads((folder / STOPS).read_text()) if (folder / STOPS).is_file() else {"state": None, "count": 0}
    count = before["count"] + 1 if before["state"] == state else 1
    atomic_write(folder / STOPS, lambda part: part.write_text(json.dumps({"state": state, "count": count})))
    return count


def _saved_state(last: Path) -> list[Any]:
    """How far a last checkpoint has come: the one behind a validation is further than the one before."""
    if not last.is_file():
        return []
    checkpoint = read_outline(last)
    return [checkpoint["global_step"], not checkpoint.get("validates_first")]  # none in one of an older version


def _folder() -> str:
    """The word that names the folder of this run or, in a sweep, that of all its runs."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode != RunMode.MULTIRUN:
        return f"hydra.run.dir={folder}"
    return f"hydra.sweep.dir={folder.parents[len(Path(hydra.sweep.subdir).parts) - 1]}"


def slurm_job_id() -> str | None:
    """The number of the job that this process belongs to, by which `scontrol` knows it; None outside of SLURM."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def why_not_by_itself(job: str) -> str | None:
    """Why a process is not to put its own job into the queue again; None: it is.

    It is not where the job was cancelled or SLURM queues it again itself: then it is not called running any more.
    """
    if shutil.which("scontrol") is None:
        return f"job {job} of SLURM is not queued again, since there is no command scontrol here"
    shown = subprocess.run(["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True)
    if shown.returncode:
        return f"job {job} of SLURM is not queued again ({shown.stderr.strip()})"
    fields = dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)
    if fields["JobState"] != "RUNNING":
        return f"SLURM is ending job {job}, and queues it again or, where it was cancelled, does not"
    if fields["Requeue"] != "1" or fields["BatchFlag"] != "1":
        return f"job {job} of SLURM is not one that may be queued again (sbatch --requeue)"
    return None
