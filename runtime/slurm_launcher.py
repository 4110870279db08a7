"""Runs as jobs of SLURM, by Hydra's submitit launcher, with what came of each in one line.

The launcher itself asks SLURM's accounting, which many clusters do not keep, and ends at the first job that fails. Here
the queue is asked, which every cluster has: a job that has left it without a result has failed.

The launcher's package is an extra: import this module only where cluster=slurm is chosen.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import submitit
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from submitit.core.utils import FailedJobError, FailedSubmissionError

from ofa.errors import UserError

SHORTEST_PAUSE, LONGEST_PAUSE = 2.0, 30.0  # seconds between two looks at the queue: jobs that fail do so soon
LATE_FILES = 10.0  # seconds by which a file of another machine may be seen too late
REMEDIES = {  # for what sbatch says, the first that fits
    "partition": "set cluster.partition to one of those that sinfo lists",
    "account": "set cluster.account to one that you may use, which your cluster's own pages name",
    "controller": "start it where sinfo answers",
    "Batch job submission failed": "ask the cluster for what sinfo shows it has: cluster.* in docs/cluster.md",
}

log = logging.getLogger(__name__)


class ReportingSlurmLauncher(SlurmLauncher):
    """Submits the runs, waits for all of them, and says of each where it is, what it scored, or why it failed."""

    failed: ClassVar[dict[str, str]] = {}  # of jobs: why, by name; `launch_by_slurm` says whose

    def __call__(self, *args: Any) -> JobReturn:
        """Does a run, in its job; the arguments are those of `launch`. A run that fails leaves no result."""
        try:
            done = super().__call__(*args)
            _ = done.return_value  # raises what the run has raised
        except Exception as error:
            traceback.print_exception(error)
            sys.exit(f"error: {type(error).__name__}: {error}")
        return done

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """What each run returned; None where it failed, which a search takes for a trial that failed."""
        try:
            jobs = self._submit(job_overrides, initial_job_idx)
        except UserError as error:  # Hydra would show where it came from
            sys.exit(f"error: {error}")
        for job, overrides in zip(jobs, job_overrides, strict=True):
            log.info("job %s: %s; its log will be %s", job.job_id, " ".join(filter_overrides(overrides)), log_of(job))
        return self._wait(jobs)

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[submitit.Job]:
        settings = dict(self.params)
        folder, turns = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=turns)
        of_all_clusters = {field.name for field in fields(BaseQueueConf)}
        executor.update_parameters(
            **{name if name in of_all_clusters else f"slurm_{name}": value for name, value in settings.items()}
        )
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        runs = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, overrides in enumerate(job_overrides, first)
        ]
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # sbatch's words, which the error holds, too
                return executor.map_array(self, *zip(*runs, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(_refusal(str(error))) from error

    def _wait(self, jobs: Sequence[submitit.Job]) -> list[JobReturn]:
        array = jobs[0].job_id.split("_")[0]
        returns: dict[str, JobReturn] = {}
        pause = SHORTEST_PAUSE
        while True:
            queued = jobs_in_queue(array)
            for job in jobs:
                if job.job_id not in returns and queued is not None and job.job_id not in queued:
                    returns[job.job_id] = self._ended(job)
            if len(returns) == len(jobs):
                return [returns[job.job_id] for job in jobs]
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def _ended(self, job: submitit.Job) -> JobReturn:
        if not _has_result(job):
            reason = last_words(job)
            self.failed[f"job {job.job_id}"] = reason
            print(f"error: job {job.job_id} failed: {reason}; its log is {log_of(job)}", file=sys.stderr)
            return JobReturn(status=JobStatus.COMPLETED)
        done = job.results()[0]
        score = "" if done.return_value is None else f"; its score is {done.return_value:.4g}"
        log.info("job %s is done, in %s%s", job.job_id, done.hydra_cfg.hydra.runtime.output_dir, score)
        return done


def launch_by_slurm(failed: dict[str, str]) -> None:
    """Have Hydra use this launcher in place of the one it is made of; jobs that fail are put into `failed`."""
    ReportingSlurmLauncher.failed = failed
    # Hydra takes plugins from its own folders alone, and knows each by its full name.
    Plugins.instance().class_name_to_class[f"{SlurmLauncher.__module__}.{SlurmLauncher.__name__}"] = (
        ReportingSlurmLauncher
    )


def jobs_in_queue(array: str) -> set[str] | None:
    """The jobs of an array that wait or run, as `array_number`, or a single job; None: the queue cannot be asked."""
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i", "--jobs", array], capture_output=True, text=True
    )
    if asked.returncode == 0:
        return set(asked.stdout.split())
    if "Invalid job id" in asked.stderr:  # SLURM has forgotten it, minutes behind its end
        return set()
    return None


def log_of(job: submitit.Job) -> Path:
    """What the batch script and the first process of a job print."""
    return job.task(0).paths.stdout


def last_words(job: submitit.Job) -> str:
    """Why a job failed, by its logs: the last sentence of an error, or else the last line."""
    texts = [
        path.read_text(errors="replace")
        for path in (job.task(number).paths.stdout for number in range(job.num_tasks))
        if path.is_file()
    ]
    errors = [words for text in texts for words in re.findall(r"^error: (.+)$", text, re.MULTILINE)]
    if errors:
        return errors[-1]
    lines = [line for text in texts for line in text.splitlines() if line.strip() and not line.startswith("srun: ")]
    return lines[-1].strip() if lines else f"it has printed nothing (scontrol show job {job.job_id})"


def _has_result(job: submitit.Job) -> bool:
    deadline = time.monotonic() + LATE_FILES
    while not all(job.task(number).paths.result_pickle.is_file() for number in range(job.num_tasks)):
        if time.monotonic() > deadline:
            return False
        time.sleep(min(0.5, LATE_FILES))
    return True


def _refusal(said: str) -> str:
    """A sentence of what sbatch said."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in said.splitlines() if line.strip()]
    remedy = next((remedy for word, remedy in REMEDIES.items() if word in said), "see cluster.* in docs/cluster.md")
    return f"sbatch refused the job: {lines[0] if lines else 'it said nothing'}; {remedy}"
