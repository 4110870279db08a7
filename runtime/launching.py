"""How the processes of a run start, find each other and end.

Where neither torchrun nor srun has started them, the first process starts those of its machine with its own words. All
meet before any work, in a process group that Lightning finds made. Objects in it travel between CPUs, and what is on
GPUs between these.
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

PATIENCE = timedelta(minutes=30)  # with a process that does something alone, such as indexing a large file
GRACE = 5.0  # seconds in which a process may end by itself, once another one has failed
LAST_STEPS = 60.0  # seconds for the last steps of the first process: a batch that is under way, a slow scontrol
STOPPED = "a signal"  # what has ended a run first, in place of the number of the process that failed
SIOCGIFADDR = 0x8915  # of Linux: asks for the address of a network interface
PARENT = "OFA_PARENT"  # the environment variable by which a process knows which one has started it


@dataclass(frozen=True)
class RankInfo:
    """Where a launcher has put a process: as which one of all, as which one of its machine, among how many in all."""

    rank: int
    local: int
    world: int


@dataclass
class Run:
    """The processes of a run, as one of them knows them.

    Attributes:
        store: what all of them read and write, while the first one lives.
        started: those that this one has started, in the order of their ranks from 1.
        over: set when there is nothing left to do together.
    """

    store: dist.Store
    started: list[subprocess.Popen] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def ended_by(self, own: str) -> str | None:
        """What has ended the run first, `own` where nothing else has; None: the first process is gone already."""
        try:
            return self.store.compare_set("ended by", "", own).decode()
        except RuntimeError:  # its store has ended with it
            return None

    def wait_for_first(self) -> None:
        """Returns when the first process has ended, which does what is to be done for all."""
        deadline = time.monotonic() + LAST_STEPS
        try:
            while not self.store.check(["first ended"]) and time.monotonic() < deadline:
                time.sleep(0.2)
        except RuntimeError:  # its store has ended with it
            pass

    def killed(self) -> str | None:
        """A sentence about a started process that was ended from outside and could not say why."""
        for number, process in enumerate(self.started, start=1):
            if process.poll() is not None and process.returncode < 0:
                return (
                    f"process {number} of this run was ended by signal {-process.returncode}; signal 9 often says that "
                    "memory is short: lower data.batch_size or data.num_workers"
                )
        return None

    def end(self) -> None:
        """Waits for the started processes, and ends those that go on."""
        deadline = time.monotonic() + GRACE
        for process in self.started:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Environment(LightningEnvironment):
    """Tells Lightning that the processes are started already, and which one this is."""

    def __init__(self, processes_of_machine: int) -> None:
        super().__init__()
        self.machine, self.local = divmod(rank(), processes_of_machine)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self.local

    def node_rank(self) -> int:
        return self.machine

    def teardown(self) -> None:
        """Leaves the variables of the launcher to the next job of a sweep."""


def worker_overrides() -> list[str]:
    """What a process adds to its command line where it is not the first: its folder is not that of the run."""
    place = rank_info()
    if place is None or place.rank == 0:
        return []
    folder = tempfile.TemporaryDirectory(prefix="ofa_")
    atexit.register(folder.cleanup)
    return [
        f"hydra.run.dir={folder.name}",
        f"hydra.sweep.dir={folder.name}",
        "hydra.output_subdir=null",
        "hydra/job_logging=disabled",
        "hydra/hydra_logging=disabled",
    ]


@contextlib.contextmanager
def distributed_run(trainer: DictConfig, command: Sequence[str]) -> Iterator[None]:
    """What stands inside is done by as many processes as the trainer's settings say.

    An error of one ends all; only the first of them to fail tells why. Where signals stop them, rank 0 speaks for all,
    and those that a launcher has started wait until it has ended: the launcher may end all where one has ended.

    Args:
        trainer: its settings.
        command: starts one more process of the run.

    Raises:
        UserError: there are fewer GPUs than asked for, or a launcher has started another number of processes.
        StoppedBySignal: in rank 0, where a signal has stopped it or another process.
    """
    machines = trainer.get("num_nodes", 1)
    world = devices_of(trainer) * machines
    place = rank_info()
    if place is not None and place.world != world:
        raise UserError(
            f"{place.world} processes were started, but trainer.devices={trainer.devices} on {machines} machines makes "
            f"{world}; set trainer=ddp, trainer.devices and trainer.num_nodes to what was started"
        )
    if place is not None and place.rank % (world // machines) != place.local:
        raise UserError(
            f"process {place.rank} of the run is process {place.local} of its machine, but with "
            f"trainer.devices={trainer.devices} it would be {place.rank % (world // machines)}; set trainer.devices to "
            "the number that every machine has, and start them in the order of the machines"
        )
    if world <= 1:
        yield
        return
    if place is None and machines > 1:
        raise UserError(
            f"trainer.num_nodes={machines}: on several machines torchrun or srun has to start the processes; "
            "see docs/cluster.md"
        )
    run = _start(trainer, world, command) if place is None else _join(place, _backend(trainer))
    try:
        yield
        dist.barrier()
    except BaseException as error:
        if not isinstance(error, UserError | Preempted) and run.started:
            time.sleep(0.5)  # a process that was killed is known as such a little later than it is missed
            if (reason := run.killed()) is not None:
                raise UserError(reason) from None
        own = STOPPED if isinstance(error, Preempted) else str(rank())
        first = run.ended_by(own)
        if first == STOPPED and rank() == 0 and own != STOPPED:
            raise Preempted("a signal stopped another process of this run") from error
        if first == own and (rank() == 0 or own != STOPPED):
            raise
        if first == STOPPED and PARENT not in os.environ:
            run.wait_for_first()
        sys.exit(EXIT_STATUS if (first or own) == STOPPED else 1)
    else:
        if run.started:
            dist.destroy_process_group()
    finally:
        run.over.set()
        run.end()


def devices_of(trainer: DictConfig) -> int:
    """How many processes a machine has: one for each of the configured devices.

    Raises:
        UserError: there are not that many GPUs, or the trainer is one of a single process.
    """
    there = 0 if trainer.accelerator == "cpu" else torch.cuda.device_count()
    devices = trainer.devices
    if isinstance(devices, str) and "," in devices:
        devices = ListConfig([int(number) for number in devices.split(",") if number.strip().isdecimal()])
    if isinstance(devices, ListConfig) and len(devices):
        count, asked = len(devices), max(devices) + 1
    elif str(devices) in ("auto", "-1"):
        count = asked = max(1, there)
    elif str(devices).isdecimal() and int(devices) > 0:
        count = asked = int(devices)
    else:
        raise UserError(f"trainer.devices={devices} is not a number of devices, a list of their numbers, or auto")
    if count > 1 and "strategy" not in trainer:
        raise UserError(f"trainer.devices={trainer.devices} is more than one process; set trainer=ddp as well")
    if trainer.accelerator != "cpu" and asked > max(1, there):
        raise UserError(
            f"trainer.devices={trainer.devices}, but this machine has {there} GPUs; ask for those, or for processes on "
            "the CPU with trainer.accelerator=cpu"
        )
    return count


def rank_info() -> RankInfo | None:
    """Where a launcher has put this process, as its environment says; None where it was simply started.

    Raises:
        UserError: the environment says only a part of it.
    """
    variables = os.environ
    if "LOCAL_RANK" in variables:  # torchrun, or `_start`
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            if name not in variables:
                raise UserError(
                    f"the environment has LOCAL_RANK, as by torchrun, but no {name}; start the processes by "
                    "torchrun or srun, or unset LOCAL_RANK for a run without them"
                )
        return RankInfo(*(int(variables[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))
    if int(variables.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # srun
        names = ("SLURM_NODEID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")
        machine, local, world, machines = (int(variables[name]) for name in names)
        # Not SLURM_PROCID, by which tasks may go round the machines (srun --distribution=cyclic).
        return RankInfo(machine * (world // machines) + local, local, world)
    return None


def _backend(trainer: DictConfig) -> str:
    return "gloo" if trainer.accelerator == "cpu" or not torch.cuda.is_available() else "cpu:gloo,cuda:nccl"


def _start(trainer: DictConfig, world: int, command: Sequence[str]) -> Run:
    """The run of this process, the first, and of the others, which it starts on this machine."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=PATIENCE, wait_for_workers=False)
    variables = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(world),
        "TQDM_DISABLE": "1",
        PARENT: str(os.getpid()),
    }
    run = Run(store)
    for local in range(1, world):
        run.started.append(subprocess.Popen(command, env={**variables, "RANK": str(local), "LOCAL_RANK": str(local)}))
    threading.Thread(target=_watch_started, args=[run], daemon=True).start()
    _end_with_parent()
    _meet(store, 0, world, _backend(trainer))
    return run


@cache  # the jobs of a sweep share one group
def _join(place: RankInfo, backend: str) -> Run:
    """The run of a process that a launcher, or the first process, has started."""
    variables = os.environ
    if "LOCAL_RANK" in variables:
        host, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    else:
        nodes = variables["SLURM_STEP_NODELIST"]  # not those of the job, of which the step may be a part
        host = variables.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
        port = int(variables.get("MASTER_PORT") or 15000 + int(variables["SLURM_JOB_ID"][-4:]))
    is_master = place.rank == 0 and variables.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(host, port, is_master=is_master, timeout=PATIENCE, wait_for_workers=False)
    if "TORCHELASTIC_RESTART_COUNT" in variables:  # after a failure torchrun starts all again, with the same store
        store = dist.PrefixStore(variables["TORCHELASTIC_RESTART_COUNT"], store)
    _end_with_parent()
    if place.rank > 0:  # the first one speaks for all
        logging.disable()
        warnings.simplefilter("ignore")
    interface = interface_to(host)
    if interface is not None:
        variables.setdefault("GLOO_SOCKET_IFNAME", interface)
    _meet(store, place.rank, place.world, backend)
    atexit.register(dist.destroy_process_group)
    if place.rank == 0:
        atexit.register(store.set, "first ended", "")  # torchrun's store stays
    return Run(store)


def interface_to(host: str) -> str | None:
    """The network interface by which this machine reaches another one; None: it is this machine, or cannot be told.

    Left to itself, gloo takes the address that the machine's own name stands for, which on many is 127.0.1.1.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect((host, 9))  # by which nothing is sent
        except OSError:  # IPv6
            return None
        address = sender.getsockname()[0]
        if address.startswith("127."):
            return None
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                asked = fcntl.ioctl(sender, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(asked[20:24]) == address:
                    return name
    return None


def _meet(store: dist.Store, number: int, world: int, backend: str) -> None:
    rank_zero_only.rank = number
    group = dist.PrefixStore("group", store)
    try:
        dist.init_process_group(backend, store=group, rank=number, world_size=world, timeout=PATIENCE)
    except RuntimeError as error:
        raise UserError(
            f"process {number} of {world} does not reach the others ({str(error).splitlines()[0]}); set "
            "GLOO_SOCKET_IFNAME to the network interface that connects their machines"
        ) from error


def _watch_started(run: Run) -> None:
    """Ends this process where a started one has ended too early and the main thread waits for it in vain."""
    statuses: set[int | None] = set()
    while not statuses - {None, 0} and not run.over.wait(0.5):
        statuses = {process.poll() for process in run.started}
    is_stopped = statuses <= {None, 0, EXIT_STATUS}  # by a signal, which this process may hear of behind its batch
    if run.over.wait(LAST_STEPS if is_stopped else 2 * GRACE):
        return
    if (reason := run.killed()) is not None:
        print(f"error: {reason}", file=sys.stderr)
    run.end()
    os._exit(EXIT_STATUS if is_stopped else 1)


def _end_with_parent() -> None:
    """From now on, ends this process where the one of this project that has started it has ended."""
    if PARENT in os.environ:
        threading.Thread(target=_watch_parent, args=[int(os.environ[PARENT])], daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
