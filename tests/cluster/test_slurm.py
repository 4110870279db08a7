"""Jobs of a real SLURM of one node, which the tests start: submitted, preempted, requeued, finished."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.runs import ROOT

pytestmark = pytest.mark.slurm

SCRIPTS = ROOT / "run_scripts/slurm"
SMALL_DEMO = ["model=micro", "data.rows.train=64", "data.rows.evaluation=10", "task.image_size=32",
              "data.batch_size=16", "data.scenes.grid=2", "data.num_workers=1", "model.dropout=0.2",
              "trainer.accelerator=cpu", "trainer.max_steps=30", "validate_every=15", "save_every=2"]  # fmt: skip
TIMEOUT = 120  # seconds


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A folder to submit from, with SLURM running."""
    for program in ("slurmctld", "slurmd", "munged"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}; Debian has it in slurm-wlm and munge")
    if os.geteuid():
        pytest.skip("slurmd needs root")
    folder = tmp_path_factory.mktemp("slurm")
    script = Path(__file__).with_name("one_node_slurm.sh")
    subprocess.run([script, "start", folder / "daemons"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "daemons/slurm.conf"))
        patch.setenv("PYTHON", sys.executable)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OFA_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        for program in ("train.py", "evaluate.py"):
            (folder / program).symlink_to(ROOT / program)
        yield folder
    subprocess.run([script, "stop", folder / "daemons"], check=True)


def call(*words, folder=None):
    return subprocess.run(list(map(str, words)), cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def wait_until(condition, what):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def weights(run_folder):
    return torch.load(run_folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_a_job_that_is_preempted_twice_equals_an_uninterrupted_job_of_a_sweep(slurm):
    # At the same time: half of it is spent on imports.
    words = [sys.executable, "train.py", "-m", "cluster=slurm", "cluster.cpus_per_task=1", "cluster.timeout_min=10"]
    sweep = subprocess.Popen(
        [*words, "hydra.sweep.dir=sweep", "seed=1,2", *SMALL_DEMO], cwd=slurm, stdout=subprocess.DEVNULL
    )
    job = call("sbatch", "--parsable", SCRIPTS / "train.sbatch", *SMALL_DEMO, folder=slurm)
    log, folder = slurm / f"slurm-{job}.log", slurm / f"outputs/slurm/{job}"
    last = folder / "checkpoints/last.ckpt"

    wait_until(last.is_file, log.read_text)
    call("scancel", "--signal=USR1", job)
    wait_until(lambda: "resuming after step" in log.read_text(), log.read_text)
    before = last.stat().st_mtime
    wait_until(lambda: last.stat().st_mtime > before, log.read_text)
    call("scontrol", "requeue", job)  # SIGTERM for the run, as when SLURM preempts the job
    wait_until(lambda: not call("squeue", "--noheader", "--jobs", job), log.read_text)
    output = log.read_text()
    assert f"job {job} requeued and will resume" in output, output
    assert "SIGUSR1: stopped after step" in output and "SIGTERM: stopped after step" in output, output
    assert output.count("resuming after step") == 2, output
    assert (folder / "metrics.json").is_file(), output

    assert sweep.wait(TIMEOUT) == 0
    first, second, other = weights(slurm / "sweep/0"), weights(folder), weights(slurm / "sweep/1")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert (slurm / "sweep/0/metrics.json").read_text() == (folder / "metrics.json").read_text()


@pytest.mark.parametrize("name", [file.name for file in SCRIPTS.glob("*.sbatch")])
def test_slurm_accepts_the_batch_scripts(slurm, name):
    call("sbatch", "--test-only", "--nodes=1", SCRIPTS / name)  # fails where it does not


def test_an_array_task_without_a_line_ends_with_an_error(slurm):
    (slurm / "lines.txt").write_text("optim.lr=1e-4\n")
    job = call("sbatch", "--parsable", "--array=2", SCRIPTS / "sweep_array.sbatch", "lines.txt", folder=slurm)
    wait_until(lambda: not call("squeue", "--noheader", "--jobs", job), lambda: "the array does not end")
    assert (slurm / f"slurm-{job}_2.log").read_text() == "error: lines.txt has no line 2; see sbatch --array\n"
