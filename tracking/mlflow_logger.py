"""MLflow logger that continues its run when training is resumed."""

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

# The default of 7 takes minutes to report an unreachable server.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")


class MLflow(MLFlowLogger):
    """A run of MLflow.

    The file `mlflow.json` in the run folder keeps its id for a resumed run. A resumed run repeats the steps after the
    last checkpoint; values that MLflow already has of a name are not logged again.

    Args:
        folder: of the run.
        tracking_uri: of a server or a database.
        experiment: its name; it is created if necessary.
        interrupted: folder of the run that is resumed, if any; it may be `folder`.

    Raises:
        UserError: at construction, for an address that MLflow does not accept; at its first use, if MLflow does not
            answer or does not have the run to continue.
    """

    def __init__(
        self, folder: str, tracking_uri: str, experiment: str, name: str, interrupted: str | None = None
    ) -> None:
        run_id = load_run_id("mlflow", interrupted).get("id")
        self.folder, self.is_resumed = folder, run_id is not None
        self.last_steps: dict[str, int] = {}  # by name, of a resumed run
        parent = Path(tracking_uri.removeprefix(SQLITE)).absolute().parent
        if tracking_uri.startswith(SQLITE) and not os.access(parent, os.W_OK):  # MLflow would retry for minutes
            raise UserError(
                f"logger.mlflow.tracking_uri={tracking_uri}: {parent} is not a writable folder; give another"
            )
        with _as_user_error(tracking_uri, run_id):
            super().__init__(experiment, run_name=name, tracking_uri=tracking_uri, run_id=run_id)

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """The client; its first use starts or continues the run."""
        if not self._initialized:
            with _as_user_error(self._tracking_uri, self._run_id):
                client = super().experiment
                if self.is_resumed:
                    client.update_run(self._run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            save_run_id("mlflow", self.folder, id=self._run_id)
        return self._mlflow_client

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Log the settings, unless the resumed run has: MLflow does not change them."""
        if not self.experiment.get_run(self.run_id).data.params:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the values of a step; MLflow allows no `@` in names."""
        values = {name.replace("@", ""): value for name, value in metrics.items()}
        super().log_metrics({name: value for name, value in values.items() if step > self._last_step(name)}, step)

    def _last_step(self, name: str) -> int:
        """The last step of which MLflow has a value of this name."""
        if name not in self.last_steps:
            history = self.experiment.get_metric_history(self.run_id, name) if self.is_resumed else []
            self.last_steps[name] = max((value.step for value in history), default=-1)
        return self.last_steps[name]


@contextmanager
def _as_user_error(tracking_uri: str, run_id: str | None) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        has_run = "" if run_id is None else f" that has the run {run_id}, which is resumed"
        raise UserError(
            f"logger.mlflow.tracking_uri={tracking_uri} cannot be used ({reason}); give the address of a server or "
            f"database{has_run}"
        ) from error
