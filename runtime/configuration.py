"""What stands in the composed configuration, as plain values and as the objects it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from ofa.errors import UserError


def to_container(config: DictConfig) -> dict[str, Any]:
    """The configuration as dictionaries and lists, every reference resolved."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, Mapping)
    return dict(container)


def instantiate(settings: DictConfig | dict[str, Any], **more: Any) -> Any:
    """Hydra's `instantiate` with plain lists and dictionaries; its wrapping of errors is taken off again.

    Raises:
        UserError: the settings do not fit what is made of them.
    """
    try:
        return hydra.utils.instantiate(settings, _convert_="all", **more)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{settings['_target_']} cannot be made with these settings: {cause}") from error
