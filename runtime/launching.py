"""Processes of a run: how they start, form a process group, and end.

Without torchrun or srun, rank 0 starts the other processes of its machine with its own command line. All of them form a
process group before any work, which Lightning then uses. Objects are sent between CPUs, tensors on GPUs between these.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from omegaconf import DictConfig, ListConfig
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only

from ofa.errors import UserError
from runtime.collectives import rank
from runtime.preemption import EXIT_STATUS, Preempted

TIMEOUT = timedelta(minutes=30)  # of collectives: one process may do something the others do not
GRACE = 5.0  # seconds in which a process may end by itself after another one has failed
SHUTDOWN = 60.0  # seconds in which rank 0 may finish: the current batch, a slow scontrol
STOPPED = "a signal"  # has ended a run, in place of the rank that failed
SIOCGIFADDR = 0x8915  # of Linux: get the address of a network interface
PARENT = "OFA_PARENT"  # environment variable: id of the process of this project that has started this one


@dataclass(frozen=True)
class RankInfo:
    """The rank of a process in the run and on its machine, and the number of processes, as a launcher has set them."""

    rank: int
    local: int
    world: int


@dataclass
class Run:
    """The processes of a run, as seen by one of them."""

    store: dist.Store  # shared by all of them while rank 0 lives
    started: list[subprocess.Popen] = field(default_factory=list)  # by this one: ranks 1, 2, ...
    over: threading.Event = field(default_factory=threading.Event)  # set when no more collective work is left

    def ended_by(self, cause: str) -> str | None:
        """The first cause that has ended the run, `cause` if there was none before; None: rank 0 has ended."""
        try:
            return self.store.compare_set("ended by", "", cause).decode()
        except RuntimeError:  # the store has ended with rank 0
            return None

    def wait_for_rank_zero(self) -> None:
        """Return when rank 0 has ended, which saves and requeues for all."""
        deadline = time.monotonic() + SHUTDOWN
        with contextlib.suppress(RuntimeError):  # the store has ended with rank 0
            while not self.store.check(["rank 0 ended"]) and time.monotonic() < deadline:
                time.sleep(0.2)

    def killed(self) -> str | None:
        """A sentence about a started process that was killed and could not print an error."""
        for number, process in enumerate(self.started, start=1):
            if process.poll() is not None and process.returncode < 0:
                return (
                    f"process {number} of this run was killed by signal {-process.returncode}; signal 9 often means "
                    "memory is short: lower data.batch_size or data.num_workers"
                )
        return None

    def end(self) -> None:
        """Wait for the started processes, and kill those that do not end."""
        deadline = time.monotonic() + GRACE
        for process in self.started:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Environment(LightningEnvironment):
    """Tells Lightning that the processes are already started, and the rank of this one."""

    def __init__(self, processes_per_node: int) -> None:
        super().__init__()
        self.machine, self.local = divmod(rank(), processes_per_node)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self.local

    def node_rank(self) -> int:
        return self.machine

    def teardown(self) -> None:
        """Keep the variables of the launcher for the next run of a sweep."""


def worker_overrides() -> list[str]:
    """Overrides that ranks other than 0 add to their command line: they have a temporary folder and no logs."""
    info = rank_info()
    if info is None or info.rank == 0:
        return []
    folder = tempfile.TemporaryDirectory(prefix="ofa_")
    atexit.register(folder.cleanup)
    folders = [f"hydra.run.dir={folder.name}", f"hydra.sweep.dir={folder.name}", "hydra.output_subdir=null"]
    return [*folders, "hydra/job_logging=disabled", "hydra/hydra_logging=disabled"]


@contextlib.contextmanager
def distributed_run(trainer: DictConfig, command: Sequence[str]) -> Iterator[None]:
    """The body runs in as many processes as the trainer's settings require.

    An error of one ends all; only the first to fail prints its error. After a signal only rank 0 prints a message, and
    processes that a launcher has started wait for its end, since the launcher may kill all when one has ended. A
    further process of the run is started by `command`.

    Raises:
        UserError: there are fewer GPUs than required, or a launcher has started another number of processes.
        Preempted: on rank 0, after a signal has stopped it or another process.
    """
    machines, devices, info = trainer.get("num_nodes", 1), devices_of(trainer), rank_info()
    world = devices * machines
    if info is not None and info.world != world:
        raise UserError(
            f"{info.world} processes were started, but trainer.devices={trainer.devices} on {machines} machines makes "
            f"{world}; set trainer=ddp, trainer.devices and trainer.num_nodes to what was started"
        )
    if info is not None and info.rank % devices != info.local:
        raise UserError(
            f"process {info.rank} of the run is process {info.local} of its machine, but with "
            f"trainer.devices={trainer.devices} it would be {info.rank % devices}; set trainer.devices to the number "
            "that every machine has, and start them in the order of the machines"
        )
    if world <= 1:
        yield
        return
    if info is None and machines > 1:
        raise UserError(
            f"trainer.num_nodes={machines}: on several machines torchrun or srun has to start the processes; "
            "see docs/cluster.md"
        )
    run = _start(trainer, world, command) if info is None else _join(info, _backend(trainer))
    try:
        yield
        dist.barrier()
    except BaseException as error:
        if not isinstance(error, UserError | Preempted) and run.started:
            time.sleep(0.5)  # collectives fail a little earlier than the status of a killed process is known
            if (reason := run.killed()) is not None:
                raise UserError(reason) from None
        cause = STOPPED if isinstance(error, Preempted) else str(rank())
        first = run.ended_by(cause)
        if first == STOPPED and rank() == 0 and cause != STOPPED:
            raise Preempted("a signal stopped another process of this run") from error
        if first == cause and (rank() == 0 or cause != STOPPED):
            raise
        if first == STOPPED and PARENT not in os.environ:
            run.wait_for_rank_zero()
        sys.exit(EXIT_STATUS if (first or cause) == STOPPED else 1)
    else:
        if run.started:
            dist.destroy_process_group()
    finally:
        run.over.set()
        run.end()


def devices_of(trainer: DictConfig) -> int:
    """The number of processes on each machine: one for each of the configured devices.

    Raises:
        UserError: there are fewer GPUs, or the trainer is one of a single process.
    """
    n_gpus = 0 if trainer.accelerator == "cpu" else torch.cuda.device_count()
    devices = trainer.devices
    if isinstance(devices, str) and "," in devices:
        devices = ListConfig([int(number) for number in devices.split(",") if number.strip().isdecimal()])
    if isinstance(devices, ListConfig) and len(devices):
        count, needed = len(devices), max(devices) + 1
    elif str(devices) in ("auto", "-1"):
        count = needed = max(1, n_gpus)
    elif str(devices).isdecimal() and int(devices) > 0:
        count = needed = int(devices)
    else:
        raise UserError(f"trainer.devices={devices} is not a number of devices, a list of their numbers, or auto")
    if count > 1 and "strategy" not in trainer:
        raise UserError(f"trainer.devices={trainer.devices} is more than one process; set trainer=ddp as well")
    if trainer.accelerator != "cpu" and needed > max(1, n_gpus):
        raise UserError(
            f"trainer.devices={trainer.devices}, but this machine has {n_gpus} GPUs; lower it, or set "
            "trainer.accelerator=cpu for processes on the CPU"
        )
    return count


def rank_info() -> RankInfo | None:
    """The rank of this process, from the environment; None without a launcher.

    Raises:
        UserError: the environment is incomplete.
    """
    variables = os.environ
    if "LOCAL_RANK" in variables:  # torchrun, or `_start`
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in variables]
        if missing:
            raise UserError(
                f"the environment has LOCAL_RANK, as by torchrun, but no {missing[0]}; start the processes by torchrun "
                "or srun, or unset LOCAL_RANK for a run without them"
            )
        return RankInfo(*(int(variables[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))
    if int(variables.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # srun
        names = ("SLURM_NODEID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")
        machine, local, world, machines = (int(variables[name]) for name in names)
        # Not SLURM_PROCID: with srun --distribution=cyclic it alternates between machines.
        return RankInfo(machine * (world // machines) + local, local, world)
    return None


def _backend(trainer: DictConfig) -> str:
    return "gloo" if trainer.accelerator == "cpu" or not torch.cuda.is_available() else "cpu:gloo,cuda:nccl"


def _start(trainer: DictConfig, world: int, command: Sequence[str]) -> Run:
    """The run of this process, rank 0, and of the others, which it starts on this machine."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=TIMEOUT, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(world)}
    variables = {**os.environ, **address, "TQDM_DISABLE": "1", PARENT: str(os.getpid())}
    run = Run(store)
    for local in map(str, range(1, world)):
        run.started.append(subprocess.Popen(command, env={**variables, "RANK": local, "LOCAL_RANK": local}))
    threading.Thread(target=_watch_started, args=[run], daemon=True).start()
    _end_with_parent()
    _init_group(store, 0, world, _backend(trainer))
    return run


@cache  # the runs of a sweep share one process group
def _join(info: RankInfo, backend: str) -> Run:
    """The run of a process that a launcher, or rank 0, has started."""
    variables = os.environ
    if "LOCAL_RANK" in variables:
        host, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    else:
        nodes = variables["SLURM_STEP_NODELIST"]  # not those of the job: the step may use a part of them
        host = variables.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
        port = int(variables.get("MASTER_PORT") or 15000 + int(variables["SLURM_JOB_ID"][-4:]))
    is_master = info.rank == 0 and variables.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(host, port, is_master=is_master, timeout=TIMEOUT, wait_for_workers=False)
    if "TORCHELASTIC_RESTART_COUNT" in variables:  # after a failure torchrun restarts all, with the same store
        store = dist.PrefixStore(variables["TORCHELASTIC_RESTART_COUNT"], store)
    _end_with_parent()
    if info.rank > 0:  # only rank 0 logs
        logging.disable()
        warnings.simplefilter("ignore")
    if (interface := interface_to(host)) is not None:
        variables.setdefault("GLOO_SOCKET_IFNAME", interface)
    _init_group(store, info.rank, info.world, backend)
    atexit.register(dist.destroy_process_group)
    if info.rank == 0:
        atexit.register(store.set, "rank 0 ended", "")  # torchrun's store outlives it
    return Run(store)


def interface_to(host: str) -> str | None:
    """The network interface that leads to another machine; None: it is this machine, or unknown.

    By default gloo uses the address of the host name, which on many machines is 127.0.1.1.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect((host, 9))  # sends nothing
        except OSError:  # IPv6
            return None
        address = sender.getsockname()[0]
        if address.startswith("127."):
            return None
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without address
                reply = fcntl.ioctl(sender, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(reply[20:24]) == address:
                    return name
    return None


def _init_group(store: dist.Store, number: int, world: int, backend: str) -> None:
    rank_zero_only.rank = number
    group = dist.PrefixStore("group", store)
    try:
        dist.init_process_group(backend, store=group, rank=number, world_size=world, timeout=TIMEOUT)
    except RuntimeError as error:
        raise UserError(
            f"process {number} of {world} cannot reach the others ({str(error).splitlines()[0]}); set "
            "GLOO_SOCKET_IFNAME to the network interface that connects their machines"
        ) from error


def _watch_started(run: Run) -> None:
    """End this process if a started one has ended too early, since the main thread may wait for it forever."""
    statuses: set[int | None] = set()
    while not statuses - {None, 0} and not run.over.wait(0.5):
        statuses = {process.poll() for process in run.started}
    is_stopped = statuses <= {None, 0, EXIT_STATUS}  # by a signal, which this process may receive after its batch
    if run.over.wait(SHUTDOWN if is_stopped else 2 * GRACE):
        return
    if (reason := run.killed()) is not None:
        print(f"error: {reason}", file=sys.stderr)
    run.end()
    os._exit(EXIT_STATUS if is_stopped else 1)


def _end_with_parent() -> None:
    """From now on, end this process when the one of this project that has started it has ended."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if PARENT in os.environ:
        threading.Thread(target=watch, args=[int(os.environ[PARENT])], daemon=True).start()
