import multiprocessing
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from ofa.errors import UserError
from runtime import launching
from runtime.collectives import broadcast_object, gather, local_rank_zero_first, mean_weights, rank, world_size
from runtime.launching import RankInfo, Run, devices_of, distributed_run, interface_to, rank_info, worker_overrides
from runtime.preemption import Preempted


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE", "RANK", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)


def start_by_torchrun(monkeypatch, local, world):
    for name, value in {"RANK": local, "LOCAL_RANK": local, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": 29500}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))


def trainer(devices, accelerator="cpu", **settings):
    return OmegaConf.create({"accelerator": accelerator, "devices": devices, "strategy": {}, **settings})


@pytest.mark.parametrize(
    ("devices", "count"), [(2, 2), ("3", 3), ("auto", 4), (-1, 4), ([1, 3], 2), ("0,2", 2), ("1,", 1), ([0], 1)]
)
def test_a_machine_has_a_process_for_each_device(monkeypatch, devices, count):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert devices_of(trainer(devices, "gpu")) == count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *[(trainer(devices), "is not a number of devices") for devices in (0, "two", -2, [])],
        *[(trainer(devices, "gpu"), "this machine has 2 GPUs") for devices in (3, [0, 2])],
        (OmegaConf.create({"accelerator": "cpu", "devices": 2}), "devices=2 is more than one process; set trainer=ddp"),
    ],
)
def test_invalid_or_missing_devices_are_refused(monkeypatch, settings, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=message):
        devices_of(settings)
    assert devices_of(trainer(3, "cpu")) == 3


def test_torchrun_and_srun_are_recognized_by_their_variables(monkeypatch):
    assert rank_info() is None and worker_overrides() == []
    for name, value in {"STEP_NUM_TASKS": "8", "STEP_NUM_NODES": "2", "NODEID": "1", "LOCALID": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert rank_info() == RankInfo(rank=6, local=2, world=8)
    start_by_torchrun(monkeypatch, local=0, world=4)  # that is started by srun
    assert rank_info() == RankInfo(rank=0, local=0, world=4) and worker_overrides() == []


def test_the_interface_to_another_machine_is_found():
    assert interface_to("127.0.0.1") is None
    interface = interface_to("192.0.2.1")  # of nobody
    if interface is None:
        pytest.skip("this machine has no network")
    assert interface in (name for _, name in socket.if_nameindex()) and interface != "lo"


def test_processes_that_cannot_reach_each_other_end_with_the_remedy(monkeypatch):
    def fail(*args, **settings):
        raise RuntimeError("Gloo connectFullMesh failed with refused\nthe stack of C++")

    monkeypatch.setattr(dist, "init_process_group", fail)
    message = r"process 0 of 2 cannot reach the others \(Gloo .* refused\); set GLOO_SOCKET_IFNAME to"
    with pytest.raises(UserError, match=message):
        launching._init_group(dist.HashStore(), 0, 2, "gloo")


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_ADDR"])
def test_an_incomplete_environment_of_torchrun_is_refused(monkeypatch, name):
    start_by_torchrun(monkeypatch, local=0, world=2)
    monkeypatch.delenv(name)
    with pytest.raises(UserError, match=f"has LOCAL_RANK, as by torchrun, but no {name}; start the processes by"):
        rank_info()


def test_other_ranks_than_zero_write_no_logs_and_no_outputs(monkeypatch):
    start_by_torchrun(monkeypatch, local=1, world=2)
    words = worker_overrides()
    assert "hydra.output_subdir=null" in words and "hydra/job_logging=disabled" in words
    assert any(word.startswith("hydra.run.dir=") for word in words)


@pytest.mark.parametrize(
    ("local", "settings", "message"),
    [
        (0, trainer(2), "4 processes were started, but trainer.devices=2 on 1 machines makes 2"),
        (1, trainer(1, num_nodes=4), "process 1 of the run is process 1 of its machine, but .*devices=1 it would be 0"),
        (None, trainer(1, num_nodes=2), "trainer.num_nodes=2: on several machines torchrun or srun has to start"),
    ],
)
def test_processes_that_do_not_match_the_configuration_are_refused(monkeypatch, local, settings, message):
    if local is not None:
        start_by_torchrun(monkeypatch, local, world=4)
    with pytest.raises(UserError, match=message), distributed_run(settings, ["true"]):
        pass


def test_a_single_process_is_rank_zero_of_one():
    with distributed_run(trainer(1), ["false"]), local_rank_zero_first(1):
        assert (rank(), world_size()) == (0, 1)
        assert gather(["a", "b"]) == ["a", "b"] and broadcast_object("a") == "a"
        assert mean_weights(torch.tensor([3.0, 5.0])).tolist() == [1.0, 1.0]


def prepare(rank, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=2))
    with local_rank_zero_first(2):
        if rank == 0:
            time.sleep(4)
            file.with_name("prepared").touch()
        assert file.with_name("prepared").exists()
    dist.destroy_process_group()


def test_other_processes_wait_for_a_long_preparation(tmp_path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=prepare, args=(rank, tmp_path / "group")) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]


@pytest.fixture
def one_of_two(monkeypatch):
    """Makes this process one of a run of two, of which only the store exists."""

    def start(number, started=()):
        run = Run(dist.HashStore(), list(started))
        monkeypatch.setattr(launching, "_start", lambda *_: run)
        monkeypatch.setattr(launching, "rank", lambda: number)
        monkeypatch.setattr(dist, "barrier", lambda: None)
        return run

    return start


STOP, ERROR = Preempted("SIGUSR1: stopped"), UserError("a broken row")


@pytest.mark.parametrize(
    ("number", "before", "error", "raises", "message"),
    [
        (0, None, STOP, Preempted, "SIGUSR1: stopped"),
        (0, STOP, STOP, Preempted, "SIGUSR1: stopped"),  # another one has stopped before
        (0, STOP, RuntimeError("closed by peer"), Preempted, "a signal stopped another process of this run"),
        (1, None, STOP, SystemExit, "75"),
        (1, STOP, RuntimeError("closed by peer"), SystemExit, "75"),
        (0, None, ERROR, UserError, "a broken row"),
        (1, None, ERROR, UserError, "a broken row"),
        (0, ERROR, STOP, SystemExit, "1"),  # by the launcher, since another one has failed
    ],
)
def test_rank_zero_reports_signals_and_the_first_process_to_fail_its_error(
    monkeypatch, one_of_two, number, before, error, raises, message
):
    run = one_of_two(number)
    run.store.set("rank 0 ended", "")
    if before is not None:
        run.ended_by(launching.STOPPED if before is STOP else "1")
    with pytest.raises(raises) as raised, distributed_run(trainer(2), []):
        raise error
    assert str(raised.value) == message


def test_a_process_of_a_launcher_ends_after_rank_zero(one_of_two):
    run = one_of_two(1)
    threading.Timer(0.6, lambda: run.store.set("rank 0 ended", "")).start()
    start = time.monotonic()
    with pytest.raises(SystemExit), distributed_run(trainer(2), []):
        raise STOP
    assert time.monotonic() - start > 0.5


@pytest.mark.parametrize(("status", "expected"), [(75, 75), (1, 1)])
def test_a_process_that_waits_for_an_ended_one_ends_with_its_status(monkeypatch, status, expected):
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr(launching, "GRACE", 0.0)
    monkeypatch.setattr(launching, "SHUTDOWN", 0.0)
    child = subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({status})"])
    launching._watch_started(Run(dist.HashStore(), [child]))
    assert ended == [expected]
