"""Resumable conversions in several processes: `convert`, whose progress is in a `Journal`.

Next to `x.tsv` are `x.tsv.part` until it is complete, `x.rejected.jsonl` and `x.tsv.journal`. The journal holds the
settings and sources of the file, and the lengths of the other two files when it was last written; whatever follows in
them is cut off before they grow again.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from data.layout import Layout
from data.prepare.records import Bounds, Conversion, LeftOut, Sample, make_line
from ofa.atomic_write import atomic_write
from ofa.errors import UserError

CHUNK = 16  # samples per task of a process
SECONDS = 5.0  # between two syncs of files and journal


@dataclass(frozen=True)
class Options:
    """Options of a conversion."""

    bounds: Bounds = Bounds()
    workers: int = 1  # processes; 1 is only this one
    stop: bool = False  # at the first unusable sample that is not expected


def convert(conversion: Conversion, settings: dict[str, str], options: Options) -> Progress:
    """Makes the file, or the rest of it; a complete one is not changed.

    Args:
        settings: all that the content depends on in addition to the sources; a file made with others is not resumed.

    Raises:
        UserError: there is another file of this name, it cannot be written, no sample makes a row, or one does not and
            the options say to stop.
    """
    journal = Journal(conversion.file, settings, {str(path): _version(path) for path in conversion.sources})
    if journal.is_finished:
        return journal.progress
    try:
        _write(conversion, journal, options)
    except OSError as error:
        raise UserError(
            f"{conversion.file} cannot be written ({error.strerror}); once that is fixed, the same command resumes "
            f"after sample {journal.progress.samples}"
        ) from error
    return journal.progress


def _version(source: Path) -> str:
    stat = source.stat()
    return f"{stat.st_size} bytes, changed at {stat.st_mtime_ns}"


def _write(conversion: Conversion, journal: Journal, options: Options) -> None:
    progress = replace(journal.progress)
    make = partial(_make_lines, layout=conversion.layout, tsv=conversion.file, bounds=options.bounds)
    # Samples are skipped, not chunks, whose size the next version may change.
    chunks = _in_chunks(islice(_read(conversion), progress.samples, None))
    rows, rejected = journal.open()
    with (
        rows,
        rejected,
        closing(_in_order(make, chunks, options.workers)) as results,
        tqdm(
            total=conversion.total,
            initial=progress.samples,
            desc=conversion.file.name,
            unit="rows",
            leave=False,
            disable=None,  # on a terminal only
        ) as bar,
    ):
        saved = time.monotonic()
        for lines in results:
            for line in lines:
                _append(line, progress, rows, rejected, options.stop)
            if time.monotonic() - saved > SECONDS:
                journal.save((rows, rejected), progress)
                saved = time.monotonic()
            bar.update(len(lines))
        journal.save((rows, rejected), progress)
    if not progress.rows:
        journal.forget()
        raise UserError(f"{conversion.file} would have no row; {describe_left_out(conversion.file, progress)}")
    journal.finish()


def _read(conversion: Conversion) -> Iterator[Sample]:
    try:
        yield from conversion.samples()
    except OSError as error:  # of reading, not of writing
        names = ", ".join(map(str, conversion.sources))
        raise UserError(f"{names} cannot be read ({error.strerror}); the same command resumes") from error


def _append(line: bytes | LeftOut, progress: Progress, rows: BinaryIO, rejected: BinaryIO, stop: bool) -> None:
    progress.samples += 1
    if isinstance(line, bytes):
        progress.rows += 1
        progress.size += rows.write(line)
        return
    if stop and not line.expected:
        raise UserError(f"{line.place}: {line.reason}; correct it, or leave such samples out with --on-error skip")
    progress.left_out += 1
    progress.expected += line.expected
    progress.first = progress.first or f"{line.place}: {line.reason}"
    entry = json.dumps({"where": line.place, "reason": line.reason})
    progress.rejected_size += rejected.write(f"{entry}\n".encode())


def describe_left_out(tsv: Path, progress: Progress) -> str:
    """How many samples were left out of a file, and why the first was."""
    if not progress.left_out:
        return "the source has no sample for it"
    expected = f" ({progress.expected} of them as expected)" if progress.expected else ""
    return (
        f"{progress.left_out} of {progress.samples} samples are left out{expected}, see {rejected_of(tsv)}; "
        f"the first, {progress.first}"
    )


def _in_chunks(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    return iter(lambda: list(islice(samples, CHUNK)), [])


def _make_lines(samples: list[Sample], layout: Layout, tsv: Path, bounds: Bounds) -> list[bytes | LeftOut]:
    return [make_line(sample, layout, tsv, bounds) for sample in samples]


def _in_order(
    make: Callable[[list[Sample]], list[bytes | LeftOut]], chunks: Iterator[list[Sample]], workers: int
) -> Iterator[list[bytes | LeftOut]]:
    """The lines of each chunk, in their order; only a few chunks are made ahead."""
    if workers == 1:
        yield from map(make, chunks)
        return
    context = get_context("forkserver")  # starts fast, and inherits no threads of a library
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context, _follow_main_process) as pool:
        try:
            waiting = deque(pool.submit(make, chunk) for chunk in islice(chunks, 2 * workers))
            while waiting:
                lines = waiting.popleft().result()
                waiting.extend(pool.submit(make, chunk) for chunk in islice(chunks, 1))
                yield lines
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process ended, probably out of memory; the same command with fewer --workers resumes"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _follow_main_process() -> None:
    """A worker ends with the main process, which also handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent_process().join()
    os._exit(1)


@dataclass
class Progress:
    """What a conversion has done."""

    samples: int = 0  # read
    rows: int = 0  # made of them
    left_out: int = 0  # including expected ones
    expected: int = 0
    first: str = ""  # of those left out
    size: int = 0  # bytes of the file of rows
    rejected_size: int = 0  # bytes of the file of samples left out


class Journal:
    """The files of one conversion and their progress; UserError if they were made with other settings or sources."""

    def __init__(self, tsv: Path, settings: Mapping[str, str], sources: Mapping[str, str]) -> None:
        self.tsv, self.settings, self.sources = tsv, settings, sources
        self.part = tsv.with_name(f"{tsv.name}.part")
        self.rejected = rejected_of(tsv)
        self.path = tsv.with_name(f"{tsv.name}.journal")
        self.progress = self._read()

    @property
    def is_finished(self) -> bool:
        """Whether the file is complete."""
        return self.tsv.exists() and not self.part.exists()

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """The unfinished file and that of samples left out, cut to the lengths in the journal."""
        self.tsv.parent.mkdir(parents=True, exist_ok=True)
        self.save((), self.progress)  # first, so that every part has a journal
        files = self.part.open("ab"), self.rejected.open("ab")
        for file, size in zip(files, (self.progress.size, self.progress.rejected_size), strict=True):
            file.truncate(size)
        return files

    def save(self, files: Iterable[BinaryIO], progress: Progress) -> None:
        """Written atomically, after all that it counts is on disk."""
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        content = {"settings": self.settings, "sources": self.sources, "progress": asdict(progress)}
        atomic_write(self.path, lambda part: part.write_text(json.dumps(content, indent=1) + "\n"))
        self.progress = replace(progress)

    def finish(self) -> None:
        """Renames the complete file."""
        os.replace(self.part, self.tsv)
        if not self.progress.rejected_size:
            self.rejected.unlink()

    def forget(self) -> None:
        """Removes a conversion without rows, so that the next may have other settings."""
        for path in (self.part, self.path):
            path.unlink()

    def _read(self) -> Progress:
        if self.tsv.is_dir():
            raise UserError(f"--out {self.tsv} is a folder; give the name of a TSV file")
        made = self.part if self.part.exists() else self.tsv
        if not made.exists():
            return Progress()
        if not self.path.exists():
            raise UserError(f"{made} exists already, from elsewhere; delete it or choose another --out")
        try:
            content = json.loads(self.path.read_text())
            settings, sources, progress = content["settings"], content["sources"], Progress(**content["progress"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is not a journal ({error}); delete {made} to start again") from error
        remedy = f"choose another --out, or delete {made.name} to start again"
        for name in {**settings, **self.settings}:
            old, new = settings.get(name), self.settings.get(name)
            if old != new:
                raise UserError(f"{made} was started with {name} {old}, not {new}; give the same again, {remedy}")
        for path in {**sources, **self.sources}:
            if sources.get(path) != self.sources.get(path):
                raise UserError(f"{path} is not, or no longer, what {made} was started with; {remedy}")
        if made.stat().st_size < progress.size:
            raise UserError(f"{made} is shorter than in {self.path.name}; {remedy}")
        return progress


def rejected_of(tsv: Path) -> Path:
    """The file of samples that made no row, one JSON object per line: `where` and `reason`."""
    return tsv.with_suffix(".rejected.jsonl")
