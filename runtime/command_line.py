"""The start and the end of every command: errors end in one line, and signals in order; in a sweep, runs alone."""

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
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ofa.atomic_write import FULL
from ofa.checkpoint import LAST
from ofa.errors import UserError
from runtime.checkpoint_io import how_to_resume
from runtime.collectives import world_size
from runtime.launching import devices_of, distributed_run, rank_info, worker_overrides
from runtime.overrides import (
    CONFIGS,
    SCRIPTS,
    check_cluster,
    check_folder,
    check_overrides,
    of_each_run,
    quoted,
    quoted_word,
)
from runtime.preemption import EXIT_STATUS, Preempted, interruptible, signals_of
from runtime.requeue import requeue_or_explain
from runtime.run_dir import lock_run_dir
from runtime.subprocess_run import FILE_STATUS, OUTCOME, Outcome, RunFailed, subprocess_run

UNUSABLE = (errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE)  # files that a user has to see to, not this project


def command(
    config_name: str, verbatim: Sequence[str] = ()
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a configuration the main function of a script; a UserError is printed as one line.

    In a sweep of runs one after the other the next run starts then, whatever the error but one that it would meet, too,
    such as a full disk; the exit status tells of it at the end.

    Args:
        config_name: of the configuration.
        verbatim: settings whose values are texts, which Hydra does not read as its own language.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        failed: dict[str, str] = {}  # of runs of a sweep: why, by folder

        @functools.wraps(function)
        def with_one_line_errors(config: DictConfig) -> Any:  # what a launcher of Hydra calls elsewhere, too
            quieten_lightning()
            again = [sys.executable, *_program(config_name), *HydraConfig.get().overrides.task]
            tells = os.environ.pop(OUTCOME, None)  # as a run of a sweep; not for the processes that it starts
            try:
                return _done(function, config, again, tells)
            except Preempted as stop:
                where = str(stop)
            except Exception as error:
                _say_failure(error, config)
                failed[_run_folder()] = str(error) or type(error).__name__
                _check_search(failed)
                return None  # which a search takes for a trial that failed
            # Behind the except clause: what the error refers to, such as reading processes, has ended now.
            if tells is not None:  # the sweep says it
                Outcome(stopped=where).tell(tells)
                sys.exit(EXIT_STATUS)
            try:
                print(f"{where}; {requeue_or_explain(config)}", file=sys.stderr)
            except UserError as error:
                sys.exit(f"error: {where}; {error}")
            sys.exit(EXIT_STATUS)

        def main() -> None:
            try:
                sys.argv = [*quoted(sys.argv, verbatim), *worker_overrides()]
                arguments = get_args_parser().parse_args()
                config = check_overrides(config_name, arguments.overrides)
                check_cluster(config, is_sweep=arguments.multirun)
                check_folder(config_name, arguments.overrides, is_sweep=arguments.multirun)
            except UserError as error:
                sys.exit(f"error: {error}")
            if arguments.multirun and OmegaConf.select(config, "cluster.name") == "slurm":
                from runtime.slurm_launcher import launch_by_slurm  # of a package that is an extra

                launch_by_slurm(failed)
            hydra.main(str(CONFIGS), config_name, version_base="1.3")(with_one_line_errors)()
            if failed:
                sys.exit(f"error: {len(failed)} runs of the sweep failed: {', '.join(failed)}")

        return main

    return decorate


def _done(function: Callable[[DictConfig], Any], config: DictConfig, again: Sequence[str], tells: str | None) -> Any:
    """What the function returns.

    Args:
        again: starts this run once more, for another process of it or as a command of its own.
        tells: the file in which that command tells the sweep what came of it.
    """
    if "trainer" not in config:  # a command of one process, that is simply ended by signals
        return function(config)
    signals = signals_of(config.get("signals", ()))
    if _others_follow() and rank_info() is None and devices_of(config.trainer) > 1:
        of_hydra = of_each_run(HydraConfig.get().overrides.hydra)
        return subprocess_run([*again, *of_hydra, quoted_word(f"hydra.run.dir={_run_folder()}")], signals)
    has_folder = HydraConfig.get().output_subdir is not None  # a cache is filled, and other processes run, without
    alone = lock_run_dir(Path(_run_folder())) if has_folder else nullcontext()
    with distributed_run(config.trainer, again), interruptible(signals), alone:
        value = function(config)
    if tells is not None:
        Outcome(value=value).tell(tells)
    return value


def _say_failure(error: Exception, config: DictConfig) -> None:
    """Returns where another run of a sweep follows; else this was the end."""
    sentence = _about_file(error, config)
    if sentence is not None:
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(FILE_STATUS)
    if not _others_follow():
        if isinstance(error, UserError):
            sys.exit(f"error: {error}")
        raise error
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif not isinstance(error, RunFailed):  # which has said so itself
        traceback.print_exception(error)


def _run_folder() -> str:
    return HydraConfig.get().runtime.output_dir


def _others_follow() -> bool:
    """Whether this is a run of a sweep that Hydra does one after the other, and no launcher has started others."""
    hydra_config = HydraConfig.get()
    is_in_turn = hydra_config.launcher._target_ == "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
    return hydra_config.mode == RunMode.MULTIRUN and is_in_turn and world_size() == 1


def _check_search(failed: dict[str, str]) -> None:
    """End a search all of whose trials have failed, among which Optuna would look for the best one."""
    if len(failed) == HydraConfig.get().sweeper.get("n_trials"):
        folder, reason = next(iter(failed.items()))
        sys.exit(f"error: all {len(failed)} trials of the search failed; the first, in {folder}: {reason}")


def _about_file(error: Exception, config: DictConfig) -> str | None:
    """What is wrong with a file, so that every run would meet it, and the remedy; None: the error is no such."""
    if isinstance(error, UserError) and isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
        return str(error)  # of a checkpoint, which names the remedy itself
    if not isinstance(error, OSError):
        return None
    if error.errno in FULL:
        reason = f"{error.filename or 'a file'} was not written: {FULL[error.errno]}; make space on it"
    elif error.errno in UNUSABLE and error.filename is not None:
        reason = f"{error.filename}: {os.strerror(error.errno)}; make it a file that can be used"
    else:
        return None
    return f"{reason}, then {_how_to_go_on(config)}"


def _how_to_go_on(config: DictConfig) -> str:
    """What to type when the remedy is done."""
    return how_to_resume(Path(_run_folder(), LAST).parent) if "resume" in config else "start again"


def _program(config_name: str) -> list[str]:
    """The script of a command, as words behind `python`."""
    if config_name in SCRIPTS:
        return [str(CONFIGS.parent / f"{config_name}.py")]
    return ["-m", f"training.{config_name}"]


def quieten_lightning() -> None:
    """Leave out what Lightning says about itself and about what is meant so; its errors and other warnings stay."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*logs directory .* exists and is not empty",  # the run folder holds more than logs
        ".*treespec, LeafSpec.* is deprecated",
        ".*is smaller than the logging interval",
        ".*does not have many workers",
        ".*Checkpoint directory .* exists and is not empty",  # of a run that goes on in its folder
        "The `srun` command is available",  # which a run of one process does not need
        "The dirpath has changed",  # a resumed run keeps its last checkpoint in its own folder
        ".*Grad strides do not match bucket view strides",  # of convolutions of 1 x 1: the two are the same
        ".*`broadcast_buffers` is deprecated",  # by a setting that the oldest supported torch does not have
        ".*when logging on epoch level in distributed setting",  # what is logged is of all processes already
        ".*``compute`` method of metric .* was called before the ``update`` method",  # of a split without truths
    ):
        warnings.filterwarnings("ignore", message)
