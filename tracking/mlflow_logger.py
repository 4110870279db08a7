"""MLflow as a logger: `MLflow`, whose run goes on where a run is resumed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from ofa.errors import UserError
from tracking.logger_run_ids import load_run_id, save_run_id

SQLITE = "sqlite:///"

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 take minutes to say that nobody answers


class MLflow(MLFlowLogger):
    """A run of MLflow.

    Its id is kept in `mlflow.json` of the run folder, where a resumed run finds it. That one makes updates again
    that the interrupted one had logged behind its last checkpoint: of each name, what MLflow has is left out.

    Args:
        folder: of the run.
        tracking_uri: of a server or a database.
        experiment: name of the experiment, which is made where there is none.
        name: of the run.
        interrupted: folder of the run that is resumed, if any; it may be `folder`.

    Raises:
        UserError: at construction, for an address that MLflow does not take; at its first use, where it does not answer
            or does not have the run that goes on.
    """

    def __init__(
        self, folder: str, tracking_uri: str, experiment: str, name: str, interrupted: str | None = None
    ) -> None:
        run_id = load_run_id("mlflow", interrupted).get("id")
        self.folder, self.goes_on = folder, run_id is not None
        self.last_steps: dict[str, int] = {}  # by name, of a run that goes on
        _check_database(tracking_uri)
        with _refused_in_a_sentence(tracking_uri, run_id):
            super().__init__(experiment, run_name=name, tracking_uri=tracking_uri, run_id=run_id)

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """The client; its first use starts the run, or goes on with it."""
        if not self._initialized:
            with _refused_in_a_sentence(self._tracking_uri, self._run_id):
                client = super().experiment
                if self.goes_on:
                    client.update_run(self._run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            save_run_id("mlflow", self.folder, id=self._run_id)
        return self._mlflow_client

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Keep the settings; those of a run that goes on stay, since MLflow changes none."""
        if not self.experiment.get_run(self.run_id).data.params:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add the values of update `step`; MLflow takes no `@` in their names."""
        values = {name.replace("@", ""): value for name, value in metrics.items()}
        super().log_metrics({name: value for name, value in values.items() if step > self._last_step(name)}, step)

    def _last_step(self, name: str) -> int:
        """Behind which the values of a name are new."""
        if name not in self.last_steps:
            history = self.experiment.get_metric_history(self.run_id, name) if self.goes_on else []
            self.last_steps[name] = max((value.step for value in history), default=-1)
        return self.last_steps[name]


def _check_database(tracking_uri: str) -> None:
    """Whether a database file can be written, which MLflow would try for minutes."""
    if not tracking_uri.startswith(SQLITE):
        return
    folder = Path(tracking_uri.removeprefix(SQLITE)).absolute().parent
    if not os.access(folder, os.W_OK):
        raise UserError(
            f"logger.mlflow.tracking_uri={tracking_uri}: {folder} is no folder that can be written; give another"
        )


@contextmanager
def _refused_in_a_sentence(tracking_uri: str, run_id: str | None) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        has_run = "" if run_id is None else f" that has the run {run_id}, with which this one goes on"
        raise UserError(
            f"logger.mlflow.tracking_uri={tracking_uri} cannot be used ({reason}); give the address of a server or "
            f"database{has_run}"
        ) from error
