from __future__ import annotations

import csv
import struct
from pathlib import Path

import pytest

from flock_ray.errors import ConfigError
from flock_ray.telemetry.tracking import registry
from flock_ray.telemetry.tracking.registry import EXTRAS, TRACKERS, get_tracker, require_trackers
from flock_ray.telemetry.tracking.tracker import TrackedRun

VALUES = {"loss/mean": 2.5, "loss/json": 2.25}
STEPS = {"training_loss/json": 3.125}


def tracked(folder: Path) -> TrackedRun:
    return TrackedRun(folder, "2026-11-30/12-00-00", "project", {"training.steps": "4", "lora.rank": "8"})


def track(name: str, folder: Path) -> None:
    """Epoch 0, a local step, epoch 1; then as a resumed run, epoch 2."""
    first = get_tracker(name)(tracked(folder))
    first.log("epoch", 0, VALUES)
    first.log("local_step", 1, STEPS)
    first.log("epoch", 1, VALUES)
    first.close()
    again = get_tracker(name)(tracked(folder))
    again.log("epoch", 2, VALUES)
    again.close()


def test_csv(tmp_path: Path) -> None:
    track("csv", tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["axis"], row["step"]) for row in rows] == [
        ("epoch", "0"), ("epoch", "0"), ("local_step", "1"), ("epoch", "1"), ("epoch", "1"), ("epoch", "2"),
        ("epoch", "2"),
    ]  # fmt: skip
    assert {row["name"]: float(row["value"]) for row in rows} == VALUES | STEPS


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    track("tensorboard", tmp_path)
    found = []
    for path in (tmp_path / "tensorboard").iterdir():
        data = path.read_bytes()
        while data:  # records: length, its checksum, event, its checksum
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + size :]
    expected = [(step, name, value) for step in (0, 1, 2) for name, value in VALUES.items()]
    assert sorted(found) == sorted([*expected, (1, "training_loss/json", 3.125)])


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    track("mlflow", tmp_path)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("project")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2 and {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.params["lora.rank"] == "8" for run in runs)
    assert sorted(run.data.metrics["loss/mean"] for run in runs) == [2.5, 2.5]


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    track("wandb", tmp_path)
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_what_is_missing_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    require_trackers(["csv", "tensorboard"])
    require_trackers([])
    with pytest.raises(ConfigError, match="names 'aim'; it may name tensorboard, csv, mlflow, wandb"):
        require_trackers(["csv", "aim"])
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for name in EXTRAS:
        with pytest.raises(ConfigError, match=rf"names {name}, whose package is not installed: pip install"):
            require_trackers([name])
    assert EXTRAS.keys() < TRACKERS.keys()
