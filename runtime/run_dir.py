"""The folder of a run: its path, its lock, names of files in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig

from ofa.errors import UserError
from runtime.collectives import broadcast_object

# Inside a run folder.
LOCK = "run.lock"
METRICS = "metrics.json"
LOCK_TIMEOUT = 10  # seconds; the data workers of a killed run may outlive it a little


def run_dir() -> Path:
    """The folder of this run; other ranks than 0 have a temporary one of their own as Hydra's."""
    return broadcast_object(Path(HydraConfig.get().runtime.output_dir))


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder while a run writes there, by a UserError; a killed run leaves no lock."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout as error:
        raise UserError(
            f"another run is writing to {folder}; give this one another hydra.run.dir (of a sweep, hydra.sweep.dir), "
            "or wait for the other"
        ) from error
    except NotImplementedError:  # the file system has no locks, as on some clusters
        yield
        return
    try:
        yield
    finally:
        lock.release()
