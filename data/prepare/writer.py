"""Resumable conversions in several processes: `convert`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from data.layout import Layout
from data.prepare.journal import Journal, Progress, rejected_of
from data.prepare.lines import Bounds, make_line
from data.prepare.records import Conversion, LeftOut, Sample
from ofa.errors import UserError

CHUNK = 16  # samples per task of a process
SECONDS = 5.0  # between two syncs of files and journal


@dataclass(frozen=True)
class Options:
    """Options of a conversion.

    Attributes:
        bounds: of the images.
        workers: processes; 1 is only this one.
        stop: end at the first unusable sample that is not expected.
    """

    bounds: Bounds = Bounds()
    workers: int = 1
    stop: bool = False


def convert(conversion: Conversion, settings: dict[str, str], options: Options) -> Progress:
    """Makes the file, or the rest of it; a complete one is not changed.

    Args:
        conversion: the file to make.
        settings: all that the content depends on in addition to the sources; a file made with others is not resumed.
        options: how to make it.

    Raises:
        UserError: there is another file of this name, it cannot be written, no sample makes a row, or one does not and
            the options say to stop.
    """
    sources = {str(path): _version(path) for path in conversion.sources}
    journal = Journal(conversion.file, settings, sources)
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
        _bar(conversion, progress.samples) as bar,
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


def _bar(conversion: Conversion, done: int) -> tqdm:
    """A progress bar, on a terminal only."""
    return tqdm(total=conversion.total, initial=done, desc=conversion.file.name, unit="rows", leave=False, disable=None)


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


def _in_chunks(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    samples = iter(samples)
    while chunk := list(islice(samples, CHUNK)):
        yield chunk


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
