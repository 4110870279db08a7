"""Runs as SLURM jobs, by Hydra's submitit launcher, with the outcome of each in one line.

The launcher itself queries SLURM's accounting, which many clusters do not have, and ends at the first job that fails.
This one queries the queue: a job that has left it without a result has failed.

The launcher's package is an extra: import this module only for cluster=slurm.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
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
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from submitit.core.utils import FailedJobError, FailedSubmissionError

from ofa.errors import UserError
from runtime.hydra_internals import replace_launcher

SHORTEST_PAUSE, LONGEST_PAUSE = 2.0, 30.0  # seconds between two queries of the queue: jobs that fail do so soon
FILE_DELAY = 10.0  # seconds after which a file written by another machine is visible
REMEDIES = {  # for errors of sbatch, the first that matches
    "partition": "set cluster.partition to one of those that sinfo lists",
    "account": "set cluster.account to one that you may use, as your cluster's documentation explains",
    "controller": "start it on a machine where sinfo works",
    "Batch job submission failed": "request only what sinfo shows: cluster.* in docs/cluster.md",
}

log = logging.getLogger(__name__)


class ReportingSlurmLauncher(SlurmLauncher):
    """Submits the runs, waits for all of them, and reports the folder and score of each, or why it failed."""

    failed: ClassVar[dict[str, str]] = {}  # job -> reason; set by `launch_by_slurm`

    def __call__(self, *args: Any) -> JobReturn:
        """Does a run, in its job; the arguments are those of `launch`. A failed run writes no result."""
        try:
            done = super().__call__(*args)
            _ = done.return_value  # raises what the run has raised
        except Exception as error:
            traceback.print_exception(error)
            sys.exit(f"error: {type(error).__name__}: {error}")
        return done

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """The result of each run; None if it failed, which a search takes for a failed trial."""
        try:
            jobs = self._submit(job_overrides, initial_job_idx)
        except UserError as error:  # Hydra would print a traceback
            sys.exit(f"error: {error}")
        for job, overrides in zip(jobs, job_overrides, strict=True):
            log.info("job %s: %s; its log will be %s", job.job_id, " ".join(filter_overrides(overrides)), log_of(job))
        return self._wait(jobs)

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[submitit.Job]:
        settings = dict(self.params)
        folder, timeouts = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=timeouts)
        common = {field.name for field in fields(BaseQueueConf)}
        executor.update_parameters(**{n if n in common else f"slurm_{n}": value for n, value in settings.items()})
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        runs = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, overrides in enumerate(job_overrides, first)
        ]
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # of sbatch; the error contains it
                return executor.map_array(self, *zip(*runs, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(_refusal(str(error))) from error

    def _wait(self, jobs: Sequence[submitit.Job]) -> list[JobReturn]:
        returns: dict[str, JobReturn] = {}
        pause = SHORTEST_PAUSE
        while True:
            queued = jobs_in_queue(jobs[0].job_id.split("_")[0])
            for job in jobs:
                if job.job_id not in returns and queued is not None and job.job_id not in queued:
                    returns[job.job_id] = self._result(job)
            if len(returns) == len(jobs):
                return [returns[job.job_id] for job in jobs]
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def _result(self, job: submitit.Job) -> JobReturn:
        if not _has_result(job):
            reason = last_error(job)
            self.failed[f"job {job.job_id}"] = reason
            print(f"error: job {job.job_id} failed: {reason}; its log is {log_of(job)}", file=sys.stderr)
            return JobReturn(status=JobStatus.COMPLETED)
        done = job.results()[0]
        score = "" if done.return_value is None else f"; its score is {done.return_value:.4g}"
        log.info("job %s is done, in %s%s", job.job_id, done.hydra_cfg.hydra.runtime.output_dir, score)
        return done


def launch_by_slurm(failed: dict[str, str]) -> None:
    """Have Hydra use this launcher instead of its base class; jobs that fail are added to `failed`."""
    ReportingSlurmLauncher.failed = failed
    replace_launcher(SlurmLauncher, ReportingSlurmLauncher)
    checkout = str(Path(__file__).parents[1])  # where jobs import this module from, whatever folder they start in
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))


def jobs_in_queue(array: str) -> set[str] | None:
    """The pending and running jobs of an array, as `array_number`, or a single job; None: the query failed."""
    command = ["squeue", "--noheader", "--array", "--format=%i", "--jobs", array]
    query = subprocess.run(command, capture_output=True, text=True)
    if query.returncode == 0:
        return set(query.stdout.split())
    return set() if "Invalid job id" in query.stderr else None  # minutes after its end SLURM forgets a job


def log_of(job: submitit.Job) -> Path:
    """The output of the batch script and of rank 0."""
    return job.task(0).paths.stdout


def last_error(job: submitit.Job) -> str:
    """Why a job failed, by its logs: the last error message, or else the last line."""
    logs = [job.task(number).paths.stdout for number in range(job.num_tasks)]
    texts = [log.read_text(errors="replace") for log in logs if log.is_file()]
    errors = [error for text in texts for error in re.findall(r"^error: (.+)$", text, re.MULTILINE)]
    if errors:
        return errors[-1]
    lines = [line for text in texts for line in text.splitlines() if line.strip() and not line.startswith("srun: ")]
    return lines[-1].strip() if lines else f"no output (scontrol show job {job.job_id})"


def _has_result(job: submitit.Job) -> bool:
    deadline = time.monotonic() + FILE_DELAY
    while not all(job.task(number).paths.result_pickle.is_file() for number in range(job.num_tasks)):
        if time.monotonic() > deadline:
            return False
        time.sleep(min(0.5, FILE_DELAY))
    return True


def _refusal(output: str) -> str:
    """A sentence about an error of sbatch, with the remedy."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in output.splitlines() if line.strip()]
    remedy = next((remedy for word, remedy in REMEDIES.items() if word in output), "see cluster.* in docs/cluster.md")
    return f"sbatch refused the job: {lines[0] if lines else 'it printed no reason'}; {remedy}"
