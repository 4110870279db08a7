"""The start of train.py and evaluate.py: mistakes on the command line end in one line that names the remedy."""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ofa.config import did_you_mean
from ofa.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a configuration the main function of a script; a UserError is printed as one line."""

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def with_one_line_errors(config: DictConfig) -> Any:
            try:
                return function(config)
            except UserError as error:
                sys.exit(f"error: {error}")

        def main() -> None:
            quieten_lightning()
            try:
                check_overrides(config_name, [word for word in sys.argv[1:] if not word.startswith("-")])
            except UserError as error:
                sys.exit(f"error: {error}")
            hydra.main(str(CONFIGS), config_name, version_base="1.3")(with_one_line_errors)()

        return main

    return decorate


def quieten_lightning() -> None:
    """Leave out what Lightning says about itself and about what is meant so; its errors and other warnings stay."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*logs directory .* exists and is not empty",  # the run folder holds more than logs
        ".*treespec, LeafSpec.* is deprecated",
        ".*is smaller than the logging interval",
        ".*multiple `ModelCheckpoint` callbacks",  # the first keeps the best
        ".*does not have many workers",
    ):
        warnings.filterwarnings("ignore", message)


def check_overrides(config_name: str, words: list[str]) -> None:
    """Compose the configuration once with the given overrides.

    Raises:
        UserError: for a key or an option of a group that does not exist, or a value of another kind than the default.
    """
    overrides = [o for o in _parse(words) if o.key_or_group.split(".")[0] != "hydra" and not o.is_sweep_override()]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            config = compose(config_name, [str(o.input_line) for o in overrides])
        except MissingConfigException as error:
            group, _, option = str(error.missing_cfg_file).partition("/")
            valid = [name for name in error.options or [] if not name.startswith("_")]
            raise UserError(
                f"{group}={option} is not one of {', '.join(valid)}{did_you_mean(option, valid)}"
            ) from error
        except ConfigCompositionException as error:
            raise _explain(error, config_name, overrides) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(str(error).splitlines()[0]) from error
        groups = [o.input_line for o in overrides if "." not in o.key_or_group and _is_group(o.key_or_group)]
        default = compose(config_name, groups)
    for override in overrides:
        _check_kind(
            override, OmegaConf.select(default, override.key_or_group), OmegaConf.select(config, override.key_or_group)
        )
    GlobalHydra.instance().clear()


def _parse(words: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise UserError(f"{error.override!r} is not of the form key=value") from error


def _is_group(name: str) -> bool:
    return (CONFIGS / name).is_dir()


def _explain(error: ConfigCompositionException, config_name: str, overrides: list[Override]) -> UserError:
    """The override that does not fit, and the key that was meant."""
    groups = [o.input_line for o in overrides if _is_group(o.key_or_group)]
    keys = [*_keys(compose(config_name, groups)), *(path.name for path in CONFIGS.iterdir() if path.is_dir())]
    for override in overrides:
        if override.key_or_group not in keys and not override.is_add():
            return UserError(
                f"there is no setting {override.key_or_group!r}{did_you_mean(override.key_or_group, keys)}"
            )
    return UserError(str(error).splitlines()[0])


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield prefix + str(key)
        if not OmegaConf.is_missing(config, key) and OmegaConf.is_dict(config._get_node(key)):
            yield from _keys(config._get_node(key), f"{prefix}{key}.")


def _check_kind(override: Override, default: object, value: object) -> None:
    """A number where the default is a number, true or false where it is one of these."""
    kinds = {bool: (bool, "true or false"), int: ((int,), "a whole number"), float: ((int, float), "a number")}
    kind, words = kinds.get(type(default), (object, ""))
    if (
        value is not None
        and not isinstance(value, kind)
        or (type(default) is not bool and words and isinstance(value, bool))
    ):
        raise UserError(f"{override.key_or_group}={value} is not {words}; the default is {default}")
