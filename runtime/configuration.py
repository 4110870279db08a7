"""Plain values and objects from the composed configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from ofa.errors import UserError


def to_container(config: DictConfig) -> dict[str, Any]:
    """The configuration as dictionaries and lists, with all references resolved."""
    return dict(OmegaConf.to_container(config, resolve=True))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The full name of each setting, such as `data.rows.train`, and its value."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def instantiate(settings: DictConfig | dict[str, Any], **more: Any) -> Any:
    """Hydra's `instantiate` with plain lists and dictionaries, and errors of the called class as they are.

    Raises:
        UserError: the settings do not fit the class or function.
    """
    try:
        return hydra.utils.instantiate(settings, _convert_="all", **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        lines = str(error.__cause__ or error).strip().splitlines()
        cause = " ".join(lines[: 2 if lines[0].endswith(":") else 1])  # of a failed import, the reason is on line 2
        if error.__cause__ is None or isinstance(error.__cause__, ImportError):
            raise UserError(
                f"{settings['_target_']} cannot be imported ({cause}); correct `_target_` or PYTHONPATH"
            ) from error
        raise UserError(f"{settings['_target_']} cannot be built with these settings: {cause}") from error
