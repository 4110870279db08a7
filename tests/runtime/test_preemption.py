import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.fakes import write_scontrol
from helpers.runs import ROOT, run
from hydra.types import RunMode
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from data.worker_watchdog import ignore_scheduler_signals
from ofa.errors import UserError
from runtime import preemption
from runtime.preemption import Preempted, StopOnSignal, interruptible, signals_of
from runtime.requeue import requeue_or_explain, slurm_job_id

SMALL_DEMO = ["model=micro", "data.rows.train=64", "data.rows.evaluation=10", "task.image_size=32",
              "data.batch_size=16", "data.scenes.grid=2", "data.num_workers=1", "trainer.accelerator=cpu",
              "trainer.max_steps=24", "validate_every=20", "save_every=2", "hydra.run.dir=run",
              "resume=auto"]  # fmt: skip


def test_after_a_signal_a_run_saves_a_checkpoint_and_resumes_by_the_same_command(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OFA_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, ROOT / "train.py", *SMALL_DEMO]
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
                               stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 200
    while not (tmp_path / "run/checkpoints/last.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    for number in (signal.SIGUSR1, signal.SIGTERM):  # as SLURM does it: more than one, to the reading processes, too
        os.killpg(process.pid, number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 75, output
    last = tmp_path / "run/checkpoints/last.ckpt"
    stopped = re.search(rf"stopped after step (\d+); checkpoint: {last}; ", output)
    assert stopped and "Traceback" not in output
    assert output.strip().endswith(f"to resume: repeat the command with resume=auto hydra.run.dir={tmp_path / 'run'}")
    again = run("train.py", *SMALL_DEMO, folder=tmp_path)
    assert f"resuming after step {stopped[1]} of" in again.stdout


def test_an_unknown_signal_is_refused():
    assert signals_of(["SIGTERM"]) == [signal.SIGTERM]
    with pytest.raises(UserError, match="signals=SIGUSER1 is not one of .*; did you mean 'SIGUSR1'"):
        signals_of(["SIGUSER1"])
    with pytest.raises(UserError, match="signals=SIGKILL is not one of"):  # no process can handle it
        signals_of(["SIGKILL"])


@pytest.fixture
def handlers():
    """Restores signal handlers after a test, as a stopped run does not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_outside_of_steps_stops_at_once_and_further_ones_do_nothing(handlers):
    before = signal.getsignal(signal.SIGUSR1)
    with interruptible([signal.SIGUSR1]):
        pass
    assert signal.getsignal(signal.SIGUSR1) == before
    with pytest.raises(Preempted, match="SIGUSR1: stopped"), interruptible([signal.SIGUSR1]):
        signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)


@pytest.mark.parametrize(("seconds", "ends"), [(60.0, False), (0.0, True)])
def test_a_later_second_signal_ends_the_process_at_once(monkeypatch, seconds, ends):
    monkeypatch.setattr(preemption, "SAME_REQUEST", seconds)
    child = os.fork()
    if not child:
        StopOnSignal([signal.SIGTERM], None).on_test_start(None, None)
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.01)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == ends


def test_an_evaluation_stops_after_the_batch(handlers):
    callback = StopOnSignal([signal.SIGTERM], None)
    callback.on_test_start(None, None)
    callback.on_test_batch_end()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Preempted, match="SIGTERM: stopped in a test"):
        callback.on_test_batch_end()


def test_a_data_worker_ignores_all_signals_except_those_of_its_parent():
    loader = DataLoader(range(40), num_workers=1, worker_init_fn=ignore_scheduler_signals)
    with interruptible(signals_of(["SIGTERM", "SIGUSR2"])):
        batches = iter(loader)
        next(batches)
    (worker,) = batches._workers
    for name in ("TERM", "USR2"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert len(list(batches)) == 39

    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_the_id_of_an_array_task_contains_that_of_the_array(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert slurm_job_id() is None
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert slurm_job_id() == "5"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4")  # that of the whole array, and of the last of its tasks to start
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert slurm_job_id() == "4_1"


@pytest.mark.parametrize(
    ("mode", "folder", "override"),
    [(RunMode.RUN, "/out", "hydra.run.dir=/out"), (RunMode.MULTIRUN, "/out/lr=1/3", "hydra.sweep.dir=/out")],
)
def test_the_folder_to_resume_in_is_that_of_the_run_or_of_the_sweep(monkeypatch, mode, folder, override):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    hydra = {"mode": mode, "runtime": {"output_dir": folder}, "sweep": {"subdir": "lr=1/3"}}
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: OmegaConf.create(hydra))
    message = requeue_or_explain(OmegaConf.create({"resume": None}))
    assert message == f"to resume: repeat the command with resume=auto {override}"


RUNNING = "JobId=7 JobState=RUNNING Requeue=1 BatchFlag=1"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A function that stops an allocation of a SLURM job in a state of training; True, or why it is not requeued."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    hydra = OmegaConf.create({"mode": RunMode.RUN, "runtime": {"output_dir": str(tmp_path)}})
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: hydra)
    (tmp_path / "checkpoints").mkdir()

    def stop(step=None, validates_first=False, fields=RUNNING, requeue_status=0):
        if step is not None:
            state = {"global_step": step, "validates_first": validates_first}
            torch.save(state, tmp_path / "checkpoints/last.ckpt")
        calls = write_scontrol(tmp_path, fields, requeue_status)
        calls.write_text("")
        try:
            message = requeue_or_explain(OmegaConf.create({"resume": "auto"}))
        except UserError as error:
            message = str(error)
        is_requeued = "requeue 7" in calls.read_text().splitlines() and requeue_status == 0
        assert is_requeued == (message == "job 7 requeued and will resume")
        return is_requeued or message

    return stop


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        (RUNNING, 1, r"not requeued \(no\)"),
        ("JobId=7 JobState=COMPLETING Requeue=1 BatchFlag=1", 0, "SLURM is ending job 7, and requeues it unless"),
        ("JobId=7 JobState=RUNNING Requeue=0 BatchFlag=1", 0, "job 7 is not requeued: it may not be"),
        ("JobId=7 JobState=RUNNING Requeue=1 BatchFlag=0", 0, "job 7 is not requeued: it may not be"),
    ],
)
def test_a_job_is_requeued_only_if_slurm_allows_it(job, fields, status, sentence):
    assert re.search(f"{sentence}.*; to resume: repeat the command", job(fields=fields, requeue_status=status))
    assert job() is True


def test_a_job_that_makes_no_progress_is_not_requeued_for_ever(job, tmp_path):
    assert [job(), job()] == [True, True]  # before the first checkpoint
    assert [job(4, validates_first=True), job(4, validates_first=True), job(4), job(4)] == [True] * 4
    message = job(4)
    assert message.startswith("job 7 is not requeued: its last 3 allocations made no progress; ")
    assert message.endswith(f"to resume: repeat the command with resume=auto hydra.run.dir={tmp_path}")
    assert job(4) is True  # by hand, with more time


def test_allocations_that_slurm_preempts_do_not_count(job):
    for _ in range(4):
        assert job(4, fields="JobId=7 JobState=PREEMPTED Requeue=1 BatchFlag=1").startswith("SLURM is ending job 7, ")
    assert [job(4), job(4)] == [True, True]


def test_an_evaluation_has_to_be_started_again():
    assert requeue_or_explain(OmegaConf.create({"checkpoint": "a"})) == "to get all results, start it again"
