"""The folder of a run, which it has to itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ofa.errors import UserError

# Inside a run folder.
LOCK = "run.lock"
METRICS = "metrics.json"
PATIENCE = 10  # seconds; the workers of a run that was killed may outlive it a little


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Keeps others out of the folder of a run while it writes there; a run that was killed keeps nobody out.

    Raises:
        UserError: another run is at work there.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise UserError(
            f"another run is writing to {folder} just now; give this one another hydra.run.dir (of a sweep, "
            "hydra.sweep.dir), or wait for the other"
        ) from error
    except NotImplementedError:  # the file system has no locks, as some of clusters
        yield
        return
    try:
        yield
    finally:
        lock.release()
