"""Weights & Biases logger that continues its run when training is resumed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from wandb.errors import AuthenticationError, CommError, UsageError

from ofa.config import check_choice
from ofa.errors import UserError
from tracking.logger_run_ids import load_run_id, save_run_id

MODES = ("online", "offline", "disabled")
OFFLINE = "set logger.wandb.mode=offline, which needs no account and no network"


class Wandb(WandbLogger):
    """A run of Weights & Biases, whose rows are numbered by training step.

    The file `wandb.json` in the run folder keeps the run's id, its last step and the names of the values of that step
    for a resumed run. A resumed run repeats the steps after the last checkpoint: online, the server has these values;
    offline, they are not logged again.

    Args:
        folder: of the run; wandb's own files go to its subfolder `wandb`.
        mode: online, offline or disabled.
        project, entity, name, group: as in wandb.init.
        interrupted: folder of the run that is resumed, if any; it may be `folder`.

    Raises:
        UserError: at construction, for online without a login; later, if the server cannot be reached.
    """

    def __init__(
        self,
        folder: str,
        mode: str,
        project: str,
        entity: str | None,
        name: str | None,
        group: str | None,
        interrupted: str | None = None,
    ) -> None:
        check_choice(mode, "logger.wandb.mode", MODES)
        if mode == "online":
            _check_login()
        before = load_run_id("wandb", interrupted)
        run_id = before.get("id", secrets.token_hex(4))
        super().__init__(name=name, project=project, save_dir=folder, id=run_id)
        self.mode, self.entity, self.group = mode, entity, group
        last = before if mode == "offline" else {}
        self.last_step: int = last.get("step", -1)
        self.names: list[str] = last.get("names", [])  # of the values of that step

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run; its first use starts it."""
        if self._experiment is None:
            try:
                self._experiment = wandb.init(
                    project=self._project,
                    entity=self.entity,
                    name=self._name,
                    group=self.group,
                    id=self._id,
                    dir=self._save_dir,
                    mode=self.mode,
                    resume="allow",
                    reinit="create_new",  # a sweep has several runs in one process
                )
            except (CommError, UsageError) as error:
                raise UserError(f"wandb does not answer ({str(error).splitlines()[0]}); {OFFLINE}") from error
            self._save_state()
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Add values to the row of a step."""
        if step < self.last_step:
            return
        if step > self.last_step:
            self.last_step, self.names = step, []
        new = {name: value for name, value in metrics.items() if name not in self.names}
        if new:
            self.experiment.log(new, step=step)
            self.names += new
            self._save_state()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run after a failure only: Lightning calls this after training and again after the test."""
        if status != "success" and self._experiment is not None:
            self._experiment.finish(exit_code=1)

    def _save_state(self) -> None:
        save_run_id("wandb", self._save_dir, id=self._id, step=self.last_step, names=self.names)


def _check_login() -> None:
    try:
        is_logged_in = wandb.login(prompt=False, verify=False)
    except (AuthenticationError, UsageError) as error:
        raise UserError(f"wandb refuses the login ({str(error).splitlines()[0]}); run `wandb login`") from error
    if not is_logged_in:
        raise UserError(f"logger.wandb.mode=online, but nobody is logged in: run `wandb login`, or {OFFLINE}")
