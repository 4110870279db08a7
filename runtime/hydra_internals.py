"""The private parts of Hydra that this project uses, all in this file. Checked against hydra-core 1.3.8."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import DictConfig

BASIC_LAUNCHER = f"{BasicLauncher.__module__}.{BasicLauncher.__qualname__}"  # runs a sweep in this process


def parse_arguments() -> Namespace:
    """The command line as Hydra reads it: `overrides`, `multirun`, `config_dir`, ..."""
    return get_args_parser().parse_args()


def apply_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Change values of a composed configuration in place; ConfigCompositionException: a key or value does not fit."""
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


@contextmanager
def known_mode(mode: RunMode | None) -> Iterator[None]:
    """Inside, `hydra.main` does not compose the configuration only to read `hydra.mode` from it."""
    original, Hydra.get_mode = Hydra.get_mode, lambda self, config_name, overrides: mode
    try:
        yield
    finally:
        Hydra.get_mode = original


def replace_launcher(original: type[Launcher], replacement: type[Launcher]) -> None:
    """Have Hydra create `replacement` for `original`; it only looks for plugins in its own packages, by full name."""
    Plugins.instance().class_name_to_class[f"{original.__module__}.{original.__name__}"] = replacement
