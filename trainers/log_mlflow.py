"""log_mlflow: records and pictures -> an MLflow run, found by MLflow's own variables.

MLFLOW_TRACKING_URI names the store; without it, that is mlflow.db beside the runs. MLFLOW_EXPERIMENT_NAME names the
experiment, `notestream` unless given.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.loggers import Told, flat_config
from trainers.run import Run

MOST_TEXT = 500  # characters of a parameter's value that every store takes
# a server that doesn't answer must not hold up the run for MLflow's own 15 minutes
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Mlflow:
    """One run of MLflow's for a run of ours, however often it is begun again."""

    def __init__(self, run: Run) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in IMPATIENT.items()})
        from mlflow.tracking import MlflowClient

        uri, home = os.environ.get("MLFLOW_TRACKING_URI"), run.folder.parent
        self._client = MlflowClient(uri or f"sqlite:///{home}/mlflow.db")
        self._told = Told.of(run, "mlflow")
        if self._told.id is None:
            self._begin(run, artifacts=None if uri else (home / "mlartifacts").as_uri())
        else:
            self._client.update_run(self._told.id, status="RUNNING")
        self._id = self._told.id or ""

    def _begin(self, run: Run, *, artifacts: str | None) -> None:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "notestream")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifacts)
        begun = self._client.create_run(experiment, run_name=run.name, tags={"notestream.run": run.place})
        self._told.id = begun.info.run_id
        options = [Param(option, str(value)[:MOST_TEXT]) for option, value in flat_config(run).items()]
        self._client.log_batch(begun.info.run_id, params=options)
        self._told.keep()

    def record(self, values: Mapping[str, Any]) -> None:
        """Log the record's numbers at its step."""
        from mlflow.entities import Metric

        news, now = self._told.news(values), int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(name, value, now, values["step"]) for name, value in news.items()])
        self._told.keep(list(news), step=values["step"])

    def picture(self, name: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Keep a picture as an artifact; one of the same step is replaced."""
        self._client.log_image(self._id, image, artifact_file=f"{name}/{step:08d}.png")

    def close(self) -> None:
        """End the run at MLflow, until it is gone on with."""
        self._client.set_terminated(self._id)
