"""The words of a command line, checked before Hydra reads them: a mistake is one sentence that names the remedy."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
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
from runtime.launching import PARENT

CONFIGS = Path(__file__).parent.parent / "configs"
SCRIPTS = ("train", "evaluate", "predict")  # other commands are modules of this folder
OF_SWEEP = ("mode", "run", "sweep", "sweeper", "launcher")  # of Hydra's own groups: how it comes to runs, and where

OmegaConf.register_new_resolver("stem", lambda path: Path(path).resolve().stem, replace=True)


def quoted(words: Sequence[str], verbatim: Sequence[str]) -> list[str]:
    """The words of a command line, each `name=text` of a name in `verbatim` as Hydra has to be given it."""
    return [quoted_word(word) if "=" in word and word.partition("=")[0] in verbatim else word for word in words]


def quoted_word(word: str) -> str:
    """A word `name=text` as Hydra has to be given it."""
    name, _, text = word.partition("=")
    escaped = re.sub(r"(\\*)'", r"\1\1\'", text)  # backslashes count in front of a quotation mark alone
    escaped = re.sub(r"(\\*)$", r"\1\1", escaped).replace("${", r"\${")
    return f"{name}='{escaped}'"


def of_each_run(words: Sequence[str]) -> list[str]:
    """Of Hydra's own settings in a sweep, `hydra.name=value` or `hydra/group=choice`, those that its runs have, too."""
    overrides = _parse(list(words))
    return [str(o.input_line) for o in overrides if re.split("[./]", o.key_or_group)[1] not in OF_SWEEP]


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
        if not is_missing:
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
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise UserError(
                f"cluster=slurm: there is no command {program} here; start it where SLURM's jobs are submitted"
            )


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
