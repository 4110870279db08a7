"""Runs as SLURM jobs, with small scripts in place of its commands; tests/cluster has a real SLURM."""

import pickle
import sys

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from runtime.command_line import command

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

from runtime import slurm_launcher  # noqa: E402


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Installs a command of SLURM: `slurm(name, script)`."""
    commands = tmp_path / "commands"
    commands.mkdir()

    def install(name, script):
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)

    for name, script in (("srun", "exit 1"), ("squeue", ""), ("sbatch", "echo Submitted batch job 23")):
        install(name, script)
    install("sacct", f"touch {tmp_path}/asked; echo no accounting >&2; exit 1")
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    monkeypatch.setattr(slurm_launcher, "FILE_DELAY", 0)
    monkeypatch.setattr(slurm_launcher, "SHORTEST_PAUSE", 0.01)
    return install


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """`python train.py -m cluster=slurm WORDS`; returns the exit status or the last sentence."""

    def call(*words):
        quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", f"hydra.sweep.dir={tmp_path}/sweep"]
        monkeypatch.setattr(sys, "argv", ["train.py", "-m", "cluster=slurm", *quiet, *words])
        try:
            command("train")(lambda config: None)()
        except SystemExit as end:
            return end.code
        return 0

    return call


def write_job(folder, job, log, score=None):
    """Writes the files of an ended job: its log and, with a score, its result."""
    folder = folder / "sweep/.submitit" / job
    folder.mkdir(parents=True)
    (folder / f"{job}_0_log.out").write_text(log)
    if score is not None:
        hydra = OmegaConf.create({"hydra": {"runtime": {"output_dir": f"RUN_OF_{job}"}}})
        done = JobReturn(hydra_cfg=hydra, status=JobStatus.COMPLETED, _return_value=score)
        (folder / f"{job}_0_result.pkl").write_bytes(pickle.dumps(("success", done)))


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("error: invalid partition specified: gpu", "invalid partition specified: gpu; set cluster.partition to one"),
        ("error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
         "Batch job submission failed: Unable to contact slurm controller (connect failure); start it on a machine"),
        ("error: Batch job submission failed: Memory specification can not be satisfied",
         "Batch job submission failed: Memory specification can not be satisfied; request only what sinfo"),
    ],
)  # fmt: skip
def test_a_refusal_of_sbatch_is_reported_with_the_remedy(slurm, submit, capsys, output, sentence):
    slurm("sbatch", f"echo 'sbatch: {output}' >&2; exit 1")
    assert submit("cluster.partition=gpu").startswith(f"error: sbatch refused the job: {sentence}")
    assert capsys.readouterr().err == ""


def test_all_jobs_are_awaited_and_failed_ones_reported_with_their_error(slurm, submit, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    write_job(
        tmp_path, "23_0", "error: of the allocation before\nerror: optim.lr=-1 is too small\nsrun: error: task 0: 1\n"
    )
    write_job(tmp_path, "23_1", "fine\n", score=0.53125)
    write_job(tmp_path, "23_2", "slurmstepd: error: Detected 1 oom_kill event\nsrun: error: task 0: Killed\n")
    # The second job ends last; in between the queue cannot be queried.
    script = f"echo . >> {tmp_path}/n; case $(wc -l < {tmp_path}/n) in 1) echo 23_1;; 2) exit 1;; 3) echo 23_1;; esac"
    slurm("squeue", script)
    assert submit("optim.lr=-1,2,3") == "error: 2 runs of the sweep failed: job 23_0, job 23_2"
    logs = tmp_path / "sweep/.submitit"
    assert capsys.readouterr().err == (
        f"error: job 23_0 failed: optim.lr=-1 is too small; its log is {logs}/23_0/23_0_0_log.out\n"
        "error: job 23_2 failed: slurmstepd: error: Detected 1 oom_kill event; "
        f"its log is {logs}/23_2/23_2_0_log.out\n"
    )
    assert f"job 23_1: cluster=slurm optim.lr=2; its log will be {logs}/23_1/23_1_0_log.out" in caplog.text
    assert "job 23_1 is done, in RUN_OF_23_1; its score is 0.5312" in caplog.text
    assert len((tmp_path / "n").read_text().split()) == 4
    assert not (tmp_path / "asked").exists()  # accounting, which not every cluster has


def test_a_job_that_slurm_no_longer_knows_has_ended(slurm, submit, tmp_path, caplog):
    caplog.set_level("INFO")
    slurm("squeue", "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
    write_job(tmp_path, "23", "", score=0.5)
    assert submit() == 0
    assert "job 23 is done, in RUN_OF_23; its score is 0.5" in caplog.text


def test_a_failed_job_without_output_is_reported(slurm, submit, capsys):
    assert submit() == "error: 1 runs of the sweep failed: job 23"
    assert "error: job 23 failed: no output (scontrol show job 23); its log" in capsys.readouterr().err
