"""MLflow: an experiment `tracking.project` where MLFLOW_TRACKING_URI says."""

from __future__ import annotations

from collections.abc import Mapping

import mlflow

from flock_ray.telemetry.tracking.tracker import TrackedRun, Tracker

_MOST = 100  # parameters that MLflow takes at a time


class Mlflow(Tracker):
    """A run of MLflow's, of its own id."""

    def __init__(self, run: TrackedRun) -> None:
        """Start it."""
        experiment = mlflow.set_experiment(run.project)
        self._client = mlflow.MlflowClient()
        self._id = self._client.create_run(experiment.experiment_id, run_name=run.name).info.run_id
        names = sorted(run.settings)
        for name in names[:_MOST]:
            self._client.log_param(self._id, name, run.settings[name])

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id)
