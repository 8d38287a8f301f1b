"""The trackers by the names that `tracking.trackers` gives them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from flock_ray.errors import ConfigError
from flock_ray.telemetry.tracking.tracker import Tracker

TRACKERS = {
    "tensorboard": "tensorboard:TensorBoard",
    "csv": "csv_file:CsvFile",
    "mlflow": "mlflow:Mlflow",
    "wandb": "wandb:WeightsAndBiases",
}
"""`module:class` of each, in this package; the modules import what only who asks for them has."""

EXTRAS = {"mlflow": "mlflow", "wandb": "wandb"}
"""Package that a tracker needs beyond our own, which is also the name of the extra that installs it."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuse what is no tracker, or cannot be used here.

    Raises:
        ConfigError: the text lists those that exist, or says how to install what is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"tracking.trackers names {name!r}; it may name {', '.join(TRACKERS)}")
        if name in EXTRAS and find_spec(EXTRAS[name]) is None:
            extra = f"pip install 'flock-ray[{EXTRAS[name]}]'"
            raise ConfigError(f"tracking.trackers names {name}, whose package is not installed: {extra}")


def get_tracker(name: str) -> type[Tracker]:
    """A tracker by its name; `require_trackers` was asked before."""
    module, _, item = TRACKERS[name].partition(":")
    tracker: type[Tracker] = getattr(import_module(f"flock_ray.telemetry.tracking.{module}"), item)
    return tracker
