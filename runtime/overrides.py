"""Checks of command-line overrides: one composition, and for a mistake one sentence with the remedy."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from ofa.config import did_you_mean
from ofa.errors import UserError
from runtime.configuration import flatten
from runtime.hydra_internals import apply_overrides
from runtime.launching import PARENT

CONFIGS = Path(__file__).parent.parent / "configs"
SCRIPTS = ("train", "evaluate", "predict")  # other commands are modules of training/
SEARCH_PATH = "hydra.searchpath"
SWEEP_SETTINGS = ("mode", "run", "sweep", "sweeper", "launcher")  # of Hydra's: they belong to a sweep, not to its runs

OmegaConf.register_new_resolver("stem", lambda path: Path(path).resolve().stem, replace=True)


def quote_values(arguments: Sequence[str], verbatim: Sequence[str]) -> list[str]:
    """The arguments; each `name=text` with a name in `verbatim` is quoted for Hydra."""
    return [quote(word) if "=" in word and word.partition("=")[0] in verbatim else word for word in arguments]


def quote(override: str) -> str:
    """An override `name=text` whose text Hydra takes as it is."""
    name, _, text = override.partition("=")
    escaped = re.sub(r"(\\*)'", r"\1\1\'", text)  # backslashes count only in front of a quotation mark
    escaped = re.sub(r"(\\*)$", r"\1\1", escaped).replace("${", r"\${")
    return f"{name}='{escaped}'"


def sweep_run_overrides(hydra_overrides: Sequence[str]) -> list[str]:
    """Of a sweep's overrides of Hydra's own settings, those that hold for each of its runs."""
    parsed = _parse(hydra_overrides)
    return [str(o.input_line) for o in parsed if re.split("[./]", o.key_or_group)[1] not in SWEEP_SETTINGS]


def search_path_override(config_dir: str, overrides: Sequence[str]) -> str:
    """Hydra's `--config-dir` as an override, which child processes and the runs of a sweep inherit."""
    folder = Path(config_dir).absolute()
    if not folder.is_dir():
        raise UserError(f"--config-dir={config_dir} is not a folder; give one with configs such as task/x.yaml")
    places = [*_search_path(_parse(overrides)), f"file://{folder}"]
    return f"{SEARCH_PATH}=[{','.join(quote(f'={place}')[1:] for place in places)}]"


def check_overrides(config_name: str, arguments: Sequence[str]) -> DictConfig:
    """Compose the configuration with the given overrides, except those of a sweep, and return it with Hydra's settings.

    Groups are composed first; values are then set as Hydra sets them, so that the defaults they replace are known.

    Raises:
        UserError: for a key or an option of a group that does not exist, a value of another kind than the default, a
            setting that has to be given, or a sweep that needs a package.
    """
    if "hydra/sweeper=search" in arguments and find_spec("optuna") is None:
        raise UserError('hydra/sweeper=search needs packages that are not installed: pip install -e ".[sweep]"')
    overrides = [o for o in _parse(arguments) if not o.is_sweep_override()]
    folders = _config_folders(overrides)
    choices = [o for o in overrides if _is_choice(o, folders)]
    _check_options(choices, folders)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose(config_name, [str(o.input_line) for o in choices], return_hydra_config=True)
        for override in overrides:
            if override not in choices:
                _apply(config, override, folders)
    except MissingConfigException as error:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and option.startswith("submitit"):
            reason = "cluster=slurm needs Hydra's launcher for it; in the project's folder: pip install -e '.[slurm]'"
            raise UserError(reason) from error
        raise _no_such_option(group, option, error.options or _options(group, folders)) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        message = str(error).splitlines()[0]
        for override in choices:
            if message.startswith(f"Could not override '{override.key_or_group}'. No match"):
                message = f"{config_name}.py does not use {override.key_or_group}; leave {override.input_line} out"
        raise UserError(message) from error
    for key, value in flatten(OmegaConf.to_container(config)):
        if value == "???" and not key.startswith("hydra."):
            program = f"{config_name}.py" if config_name in SCRIPTS else f"python -m training.{config_name}"
            raise UserError(f"{key} has to be given: {program} {key}=...")
    return config


def check_cluster(config: DictConfig, is_sweep: bool) -> None:
    """Refuse a cluster that cannot be reached in this way; `is_sweep`: by -m Hydra gives runs to its launchers."""
    if OmegaConf.select(config, "cluster.name") != "slurm" or PARENT in os.environ:  # a job has started this process
        return
    if not is_sweep:
        raise UserError("cluster=slurm needs -m, even for a single job: python train.py -m cluster=slurm ...")
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise UserError(f"cluster=slurm: there is no command {program} here; use a machine that can submit jobs")


def check_folder(config: DictConfig, is_sweep: bool) -> None:
    """Refuse a folder that cannot be written, or that would be another one each time for a run that resumes in it."""
    name = "sweep" if is_sweep else "run"
    key = f"hydra.{name}.dir"
    is_kept = OmegaConf.select(config, "cluster.name") == "slurm"  # by its launcher, for all allocations of a job
    unresolved = OmegaConf.to_container(config.hydra[name], resolve=False)["dir"]
    if config.get("resume") == "auto" and not is_kept and "${now:" in unresolved:
        raise UserError(f"resume=auto needs {key}=FOLDER: without it, each start has another folder")
    try:
        folder = Path(config.hydra[name].dir).absolute()
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise UserError(f"{key}={folder}: {existing} cannot be written; give a folder that can")


def _parse(arguments: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(arguments))
    except OverrideParseException as error:
        raise UserError(f"{error.override!r} is not of the form key=value") from error


def _search_path(overrides: Sequence[Override]) -> list[str]:
    values = [o.value() for o in overrides if o.key_or_group == SEARCH_PATH]
    return [str(place) for place in values[-1]] if values and isinstance(values[-1], list) else []


def _config_folders(overrides: Sequence[Override]) -> list[Path]:
    """The project's configs, and folders and packages of hydra.searchpath."""
    folders = [CONFIGS]
    for place in _search_path(overrides):
        scheme, _, path = place.rpartition("://")
        package = find_spec(path.replace("/", ".")) if scheme == "pkg" else None
        folders += [Path(path)] if package is None else map(Path, package.submodule_search_locations)
    return folders


def _is_choice(override: Override, folders: Sequence[Path]) -> bool:
    """Whether an override takes part in choosing files, instead of setting a value."""
    key = override.key_or_group
    is_group = key.startswith("hydra/") or any((folder / key).is_dir() for folder in folders)
    return key == SEARCH_PATH or (is_group and not isinstance(override.value(), dict))


def _options(group: str, folders: Sequence[Path]) -> list[str]:
    """The options of a group; files that start with an underscore are only for the defaults of others."""
    files = [(file, folder / group) for folder in folders for file in (folder / group).rglob("[!_]*.yaml")]
    return sorted({file.relative_to(base).with_suffix("").as_posix() for file, base in files})


def _check_options(choices: Sequence[Override], folders: Sequence[Path]) -> None:
    """Refuse an option without a file; Hydra would leave one of an optional group out silently."""
    for override in choices:
        group, value = override.key_or_group, override.value()
        if group.startswith("hydra"):  # options of its plugins
            continue
        for option in value if isinstance(value, list) else [value]:
            if isinstance(option, str) and not any((f / group / f"{option}.yaml").is_file() for f in folders):
                raise _no_such_option(group, option, _options(group, folders))


def _no_such_option(group: str, option: str, options: Sequence[str]) -> UserError:
    valid = [name for name in options if not name.startswith("_")]
    return UserError(f"{group}={option} is not one of {', '.join(valid)}{did_you_mean(option, valid)}")


def _apply(config: DictConfig, override: Override, folders: Sequence[Path]) -> None:
    """Set a value in the configuration; it has to be of the default's kind."""
    key = override.key_or_group
    try:
        default = OmegaConf.select(config, key)
    except InterpolationToMissingValueError:  # it follows one that has to be given
        default = None
    try:
        apply_overrides(config, [override])
    except ConfigCompositionException as error:
        raise _explain(error, key, config, folders) from error
    _check_kind(key, default, OmegaConf.select(config, key))


def _explain(error: ConfigCompositionException, key: str, config: DictConfig, folders: Sequence[Path]) -> UserError:
    """What is wrong with an override that Hydra refuses, and the key or the choice that was meant."""
    group, of_hydra = key.split(".")[0], key.startswith("hydra.")
    options = _options(group, folders)
    if "none" in options and config.get(group) == {}:
        choices = ", ".join(f"{group}={name}" for name in options if name != "none")
        return UserError(f"{key} has no effect with {group}=none; choose one of {choices}")
    keys = [name for name, _ in flatten(OmegaConf.to_container(config)) if name.startswith("hydra.") == of_hydra]
    keys += [path.name for folder in folders for path in folder.iterdir() if path.is_dir()]
    if key not in keys:
        return UserError(f"there is no setting {key!r}{did_you_mean(key, keys)}")
    return UserError(str(error).splitlines()[0])


def _check_kind(key: str, default: object, value: object) -> None:
    """A number where the default is one, true or false where it is one of these, settings where it has settings."""
    if isinstance(default, DictConfig) and not isinstance(value, DictConfig):
        settings = ", ".join(f"{key}.{name}" for name in default)
        raise UserError(f"{key}={value}: it is a group of settings; set one of {settings}")
    kinds = {bool: ((bool,), "true or false"), int: ((int,), "a whole number"), float: ((int, float), "a number")}
    allowed, kind = kinds.get(type(default), ((), ""))
    is_other_kind = not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)
    # null means "none" in many settings; Lightning's devices may be a number, a list or "auto".
    if allowed and is_other_kind and isinstance(value, str | bool | int | float) and key != "trainer.devices":
        raise UserError(f"{key}={value} is not {kind}; the default is {default}")
