"""The start of every command: mistakes on the command line end in one line that names the remedy."""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from ofa.checkpoint import LAST
from ofa.config import did_you_mean
from ofa.errors import UserError
from ofa.whole_file import FULL
from training.checkpoint_io import how_to_go_on
from training.interruption import EXIT_STATUS, StoppedBySignal, interruptible, signals_of
from training.launching import PARENT, devices_of, launched, together, words_of_others
from training.processes import world_size
from training.requeue import how_it_goes_on
from training.run_apart import OUTCOME, Outcome, RunFailed, run_apart

CONFIGS = Path(__file__).parent.parent / "configs"
SCRIPTS = ("train", "evaluate", "predict")  # other commands are modules of this folder

UNUSABLE = (errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE)  # files that a user has to see to, not this project

OmegaConf.register_new_resolver("stem", lambda path: Path(path).resolve().stem, replace=True)


def command(
    config_name: str, verbatim: Sequence[str] = ()
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a configuration the main function of a script; a UserError is printed as one line.

    In a sweep of runs one after the other the next run starts then, whatever the error; the exit status tells of it at
    the end.

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
            except StoppedBySignal as stop:
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
                print(f"{where}; {how_it_goes_on(config)}", file=sys.stderr)
            except UserError as error:
                sys.exit(f"error: {where}; {error}")
            sys.exit(EXIT_STATUS)

        def main() -> None:
            try:
                sys.argv = [*quoted(sys.argv, verbatim), *words_of_others()]
                arguments = get_args_parser().parse_args()
                check_cluster(check_overrides(config_name, arguments.overrides), is_sweep=arguments.multirun)
                check_folder(config_name, arguments.overrides, is_sweep=arguments.multirun)
            except UserError as error:
                sys.exit(f"error: {error}")
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
    if _others_follow() and launched() is None and devices_of(config.trainer) > 1:
        return run_apart([*again, _quoted(f"hydra.run.dir={_run_folder()}")], signals)
    with together(config.trainer, again), interruptible(signals):
        value = function(config)
    if tells is not None:
        Outcome(value=value).tell(tells)
    return value


def _say_failure(error: Exception, config: DictConfig) -> None:
    """Returns where another run of a sweep follows; else this was the end."""
    sentence = _about_file(error) if isinstance(error, OSError) else None
    if sentence is not None:  # what every run would meet
        sys.exit(f"error: {sentence}, then {_how_to_go_on(config)}")
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


def _about_file(error: OSError) -> str | None:
    """What is wrong with a file, and the remedy; None: the error is no such."""
    if error.errno in FULL:
        return f"{error.filename or 'a file'} was not written: {FULL[error.errno]}; make space on it"
    if error.errno in UNUSABLE and error.filename is not None:
        return f"{error.filename}: {os.strerror(error.errno)}; make it a file that can be used"
    return None


def _how_to_go_on(config: DictConfig) -> str:
    """What to type when the remedy is done."""
    return how_to_go_on(Path(_run_folder(), LAST).parent) if "resume" in config else "start again"


def quoted(words: Sequence[str], verbatim: Sequence[str]) -> list[str]:
    """The words of a command line, each `name=text` of a name in `verbatim` as Hydra has to be given it."""
    return [_quoted(word) if "=" in word and word.partition("=")[0] in verbatim else word for word in words]


def _quoted(word: str) -> str:
    name, _, text = word.partition("=")
    escaped = re.sub(r"(\\*)'", r"\1\1\'", text)  # backslashes count in front of a quotation mark alone
    escaped = re.sub(r"(\\*)$", r"\1\1", escaped).replace("${", r"\${")
    return f"{name}='{escaped}'"


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


def check_overrides(config_name: str, words: list[str]) -> DictConfig:
    """Compose the configuration once with the given overrides, and return it; those that sweep are left to Hydra.

    Raises:
        UserError: for a key or an option of a group that does not exist, a value of another kind than the default, a
            setting that has to be given, or a sweep that needs a package.
    """
    if "hydra/sweeper=search" in words and find_spec("optuna") is None:
        raise UserError('hydra/sweeper=search needs packages that are not installed: pip install -e ".[sweep]"')
    given = [o for o in _parse(words) if not o.key_or_group.startswith(("hydra.", "hydra/"))]
    overrides = [o for o in given if not o.is_sweep_override()]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            config = compose(config_name, [str(o.input_line) for o in overrides])
            default = compose(config_name, [o.input_line for o in overrides if _is_group(o.key_or_group)])
            for override in overrides:
                key = override.key_or_group
                _check_kind(key, _default(default, key), OmegaConf.select(config, key))
        except MissingConfigException as error:
            if str(error.missing_cfg_file).startswith("hydra/launcher/submitit"):
                raise UserError(
                    "cluster=slurm needs Hydra's launcher for it; in the project's folder: pip install -e '.[slurm]'"
                ) from error
            group, _, option = str(error.missing_cfg_file).partition("/")
            # Hydra lists none where one of several choices is wrong.
            options = error.options or sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
            valid = [name for name in options if not name.startswith("_")]
            raise UserError(
                f"{group}={option} is not one of {', '.join(valid)}{did_you_mean(option, valid)}"
            ) from error
        except ConfigCompositionException as error:
            raise _explain(error, config_name, overrides) from error
        except UserError:
            raise
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise UserError(str(error).splitlines()[0]) from error
    for key, is_missing in _settings(config):
        if not is_missing or key == "data.root":  # data.files may stand for data.root
            continue
        program = f"{config_name}.py" if config_name in SCRIPTS else f"python -m training.{config_name}"
        raise UserError(f"{key} has to be given: {program} {key}=...")
    return config


def check_cluster(config: DictConfig, is_sweep: bool) -> None:
    """Refuse a cluster that cannot be reached in this way.

    Args:
        config: as composed.
        is_sweep: whether the command has -m, with which Hydra gives runs to its launchers.
    """
    if OmegaConf.select(config, "cluster.name") != "slurm" or PARENT in os.environ:  # a job has started this process
        return
    if not is_sweep:
        raise UserError("cluster=slurm starts jobs by -m, even a single one: python train.py -m cluster=slurm ...")
    if shutil.which("sbatch") is None:
        raise UserError("cluster=slurm: there is no command sbatch here; start it where SLURM's jobs are submitted")


def check_folder(config_name: str, words: list[str], is_sweep: bool) -> None:
    """Whether outputs can be written where they would go, and where resume=auto would find them again.

    Raises:
        UserError: the folder cannot be written; or it is another one at each start, and the run is to go on in it.
    """
    key = "hydra.sweep.dir" if is_sweep else "hydra.run.dir"
    overrides = [override.input_line for override in _parse(words) if not override.is_sweep_override()]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            config = compose(config_name, overrides, return_hydra_config=True)
        except HydraException:  # of settings of Hydra's own, which it will explain itself
            return
    is_kept = OmegaConf.select(config, "cluster.name") == "slurm"  # by its launcher, for all turns of a job
    if config.get("resume") == "auto" and not is_kept and "${now:" in _as_written(config, key):
        raise UserError(f"resume=auto needs {key}=FOLDER: without it, each start has a folder of its own")
    folder = Path(OmegaConf.select(config, key)).absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UserError(f"{key}={folder}: {there} cannot be written; give a folder that can")


def _as_written(config: DictConfig, key: str) -> str:
    """A setting with the references in it."""
    group, _, name = key.rpartition(".")
    return str(OmegaConf.to_container(OmegaConf.select(config, group), resolve=False)[name])


def _parse(words: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UserError(f"{error.override!r} is not of the form key=value") from error


def _is_group(name: str) -> bool:
    return (CONFIGS / name).is_dir()


def _composes(config_name: str, override: Override) -> bool:
    try:
        compose(config_name, [override.input_line])
    except ConfigCompositionException:
        return False
    return True


def _explain(error: ConfigCompositionException, config_name: str, overrides: list[Override]) -> UserError:
    """The override that does not fit, and the key or the choice that was meant."""
    for override in overrides:
        group = override.key_or_group
        if _is_group(group) and not _composes(config_name, override):
            return UserError(f"{config_name}.py reads nothing of {group}; leave {override.input_line} out")
    groups = [o.input_line for o in overrides if _is_group(o.key_or_group)]
    config = compose(config_name, groups)
    keys = [
        *(key for key, _ in _settings(config)),
        *(path.name for path in CONFIGS.iterdir() if path.is_dir()),
    ]
    for override in overrides:
        group = override.key_or_group.split(".")[0]
        if (CONFIGS / group / "none.yaml").is_file() and config.get(group) == {}:
            options = sorted(file.stem for file in (CONFIGS / group).glob("[!_]*.yaml") if file.stem != "none")
            return UserError(
                f"{override.key_or_group} has no effect with {group}=none; choose one of "
                f"{', '.join(f'{group}={option}' for option in options)}"
            )
        if override.key_or_group not in keys and not override.is_add():
            return UserError(
                f"there is no setting {override.key_or_group!r}{did_you_mean(override.key_or_group, keys)}"
            )
    return UserError(str(error).splitlines()[0])


def _settings(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The full name of each setting, and whether it still has to be given."""
    for key in config:
        is_missing = OmegaConf.is_missing(config, key)
        yield prefix + str(key), is_missing
        if not is_missing and OmegaConf.is_dict(config._get_node(key)):
            yield from _settings(config._get_node(key), f"{prefix}{key}.")


def _default(config: DictConfig, key: str) -> object:
    """The value of a setting, None where it follows one that has to be given."""
    try:
        return OmegaConf.select(config, key)
    except InterpolationToMissingValueError:
        return None


def _check_kind(key: str, default: object, value: object) -> None:
    """A number where the default is one, true or false where it is one of these, settings where it has settings."""
    if isinstance(default, DictConfig) and not isinstance(value, DictConfig) and not _is_group(key):
        raise UserError(
            f"{key}={value}: it is a group of settings; set one of {', '.join(f'{key}.{k}' for k in default)}"
        )
    kinds = {bool: ((bool,), "true or false"), int: ((int,), "a whole number"), float: ((int, float), "a number")}
    allowed, words = kinds.get(type(default), ((), ""))
    is_other_kind = not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)
    # null means "none" in many settings; Lightning's devices may be a number, a list or "auto".
    if allowed and is_other_kind and isinstance(value, str | bool | int | float) and key != "trainer.devices":
        raise UserError(f"{key}={value} is not {words}; the default is {default}")
