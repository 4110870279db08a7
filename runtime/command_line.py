"""Main functions of the scripts: one-line errors, graceful stop by signals, sweeps that survive a failed run."""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ofa.atomic_write import FULL
from ofa.checkpoint import LAST
from ofa.errors import UserError
from runtime.checkpoints import how_to_resume
from runtime.collectives import world_size
from runtime.hydra_internals import BASIC_LAUNCHER, known_mode, parse_arguments
from runtime.launching import devices_of, distributed_run, rank_info, worker_overrides
from runtime.overrides import (
    CONFIGS,
    SCRIPTS,
    SEARCH_PATH,
    check_cluster,
    check_folder,
    check_overrides,
    quote,
    quote_values,
    search_path_override,
    sweep_run_overrides,
)
from runtime.preemption import EXIT_STATUS, Preempted, interruptible, signals_of
from runtime.requeue import requeue_or_explain
from runtime.run_dir import lock_run_dir
from runtime.subprocess_run import FILE_STATUS, OUTCOME, Outcome, RunFailed, subprocess_run

UNUSABLE = (errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE)  # errors of files that only a user can repair


def command(
    config_name: str, verbatim: Sequence[str] = ()
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a configuration the main function of a script; a UserError is printed as one line.

    In a sweep of runs in sequence the next run then starts, unless it would meet the same error, such as a full disk;
    the exit status at the end reports the failure. `verbatim`: settings whose values Hydra does not parse.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        failed: dict[str, str] = {}  # runs of a sweep that failed: folder -> reason

        @functools.wraps(function)
        def run_with_one_line_errors(config: DictConfig) -> Any:  # launchers of Hydra call it elsewhere, too
            quieten_lightning()
            outcome_file = os.environ.pop(OUTCOME, None)  # as a run of a sweep; not for processes that it starts
            try:
                return _run(function, config, config_name, outcome_file)
            except Preempted as stop:
                where = str(stop)
            except Exception as error:
                _report_failure(error, config)
                failed[_run_folder()] = str(error) or type(error).__name__
                if len(failed) == HydraConfig.get().sweeper.get("n_trials"):  # Optuna would look for the best of none
                    folder, reason = next(iter(failed.items()))
                    sys.exit(f"error: all {len(failed)} trials of the search failed; the first, in {folder}: {reason}")
                return None  # which a search takes for a failed trial
            # After the except clause: what the error refers to, such as data workers, has ended now.
            try:
                if outcome_file is None:
                    print(f"{where}; {requeue_or_explain(config)}", file=sys.stderr)
                else:  # the sweep prints it
                    Outcome(stopped=where).write(outcome_file)
            except UserError as error:
                sys.exit(f"error: {where}; {error}")
            sys.exit(EXIT_STATUS)

        def main() -> None:
            try:
                sys.argv = quote_values(sys.argv, verbatim)
                arguments = parse_arguments()
                config = _check_command(config_name, arguments)
            except UserError as error:
                sys.exit(f"error: {error}")
            if arguments.multirun and OmegaConf.select(config, "cluster.name") == "slurm":
                from runtime.slurm_launcher import launch_by_slurm  # needs packages of an extra

                launch_by_slurm(failed)
            with known_mode(config.hydra.mode):
                hydra.main(str(CONFIGS), config_name, version_base="1.3")(run_with_one_line_errors)()
            if failed:
                sys.exit(f"error: {len(failed)} runs of the sweep failed: {', '.join(failed)}")

        return main

    return decorate


def _check_command(config_name: str, arguments: Any) -> DictConfig:
    """Complete the command line, and refuse one that cannot work; its composed configuration."""
    more = worker_overrides()
    if arguments.config_dir is not None:
        more.append(search_path_override(arguments.config_dir, arguments.overrides))
    if more:  # flags have to stand together
        flags = [word for word in sys.argv[1:] if word not in arguments.overrides]
        sys.argv = [sys.argv[0], *flags, *arguments.overrides, *more]
    config = check_overrides(config_name, [*arguments.overrides, *more])
    check_cluster(config, is_sweep=arguments.multirun)
    check_folder(config, is_sweep=arguments.multirun)
    return config


def _run(function: Callable[[DictConfig], Any], config: DictConfig, name: str, file: str | None) -> Any:
    """The value of the function, called in the processes that the configuration asks for.

    Args:
        name: of the configuration.
        file: where the sweep that has started this command reads the value.
    """
    if "trainer" not in config:  # a command of one process, which signals simply end
        return function(config)
    overrides = HydraConfig.get().overrides
    program = [str(CONFIGS.parent / f"{name}.py")] if name in SCRIPTS else ["-m", f"training.{name}"]
    command = [sys.executable, *program, *overrides.task]
    signals = signals_of(config.get("signals", ()))
    if _is_sequential_sweep() and rank_info() is None and devices_of(config.trainer) > 1:
        folder = quote(f"hydra.run.dir={_run_folder()}")
        return subprocess_run([*command, *sweep_run_overrides(overrides.hydra), folder], signals)
    has_folder = HydraConfig.get().output_subdir is not None  # not where a cache is filled, and not in rank > 0
    lock = lock_run_dir(Path(_run_folder())) if has_folder else nullcontext()
    for_workers = [*command, *(word for word in overrides.hydra if word.startswith(SEARCH_PATH))]
    with distributed_run(config.trainer, for_workers), interruptible(signals), lock:
        value = function(config)
    if file is not None:
        Outcome(value=value).write(file)
    return value


def _report_failure(error: Exception, config: DictConfig) -> None:
    """Print an error; returns only if another run of a sweep follows."""
    if (sentence := _file_error(error, config)) is not None:
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(FILE_STATUS)
    if not _is_sequential_sweep():
        if isinstance(error, UserError):
            sys.exit(f"error: {error}")
        raise error
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif not isinstance(error, RunFailed):  # which has printed its error itself
        traceback.print_exception(error)


def _run_folder() -> str:
    return HydraConfig.get().runtime.output_dir


def _is_sequential_sweep() -> bool:
    """Whether Hydra does the runs of a sweep in this process, and no launcher such as torchrun has started it."""
    config = HydraConfig.get()
    return config.mode == RunMode.MULTIRUN and config.launcher._target_ == BASIC_LAUNCHER and world_size() == 1


def _file_error(error: Exception, config: DictConfig) -> str | None:
    """What is wrong with a file, so that every run would meet it, and the remedy; None: it is another error."""
    if isinstance(error, UserError) and isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
        return str(error)  # of a checkpoint, which names the remedy itself
    if not isinstance(error, OSError):
        return None
    if error.errno in FULL:
        reason = f"{error.filename or 'a file'} was not written: {FULL[error.errno]}; free some space"
    elif error.errno in UNUSABLE and error.filename is not None:
        reason = f"{error.filename}: {os.strerror(error.errno)}; make it accessible"
    else:
        return None
    remedy = how_to_resume(Path(_run_folder(), LAST).parent) if "resume" in config else "start again"
    return f"{reason}, then {remedy}"


def quieten_lightning() -> None:
    """Silence Lightning's messages about itself and about what is intended here; errors and other warnings stay."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*logs directory .* exists and is not empty",  # the run folder contains more than logs
        ".*treespec, LeafSpec.* is deprecated",
        ".*is smaller than the logging interval",
        ".*does not have many workers",
        ".*Checkpoint directory .* exists and is not empty",  # of a run that resumes in its folder
        "The `srun` command is available",  # which a run of one process does not need
        "The dirpath has changed",  # a resumed run keeps its last checkpoint in its own folder
        ".*Grad strides do not match bucket view strides",  # of 1x1 convolutions: the two are the same
        ".*`broadcast_buffers` is deprecated",  # by a setting that the oldest supported torch does not have
        ".*DataLoader will create .* worker processes",  # more than cores; they also wait for the disk
        ".*when logging on epoch level in distributed setting",  # what is logged is already reduced
        ".*``compute`` method of metric .* was called before",  # of a split without truths
    ):
        warnings.filterwarnings("ignore", message)
