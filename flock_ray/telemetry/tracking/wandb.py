"""Weights & Biases: a project `tracking.project`; WANDB_MODE=offline needs no network."""

from __future__ import annotations

from collections.abc import Mapping

import wandb

from flock_ray.telemetry.tracking.tracker import TrackedRun, Tracker


class WeightsAndBiases(Tracker):
    """A run of theirs, with an axis of its own for each of ours."""

    def __init__(self, run: TrackedRun) -> None:
        """Start it, or go on with it."""
        self._run = wandb.init(
            project=run.project, name=run.name, id=run.name.replace("/", "_"), resume="allow", dir=str(run.folder),
            config=dict(run.settings), settings=wandb.Settings(silent=True),
        )  # fmt: skip
        for axis in ("epoch", "local_step"):
            self._run.define_metric(axis)

    def log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name in values:
            self._run.define_metric(name, step_metric=axis)
        self._run.log({axis: step, **values})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()
