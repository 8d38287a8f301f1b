from __future__ import annotations

import csv
from pathlib import Path

import pytest

from flock_ray.cluster import tracking
from flock_ray.cluster.tracking import Tracking
from flock_ray.telemetry.tracking.csv_file import CsvFile
from flock_ray.telemetry.tracking.tracker import TrackedRun, Tracker

pytestmark = pytest.mark.ray


class Flaky(CsvFile):
    """Loses its network after the first epoch."""

    def log(self, axis: str, step: int, values: object) -> None:
        if step:
            raise OSError("no route to host\nand more")


def figures(folder: Path) -> list[tuple[str, str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [(row["axis"], row["step"], row["name"]) for row in csv.DictReader(file)]


def opened(folder: Path, names: list[str], told: list[str]) -> Tracking:
    run = TrackedRun(folder, "run", "project", {})
    return Tracking(names, run, lambda member: f"silo #{member}/x", 4, told.append)


def test_figures_have_names_that_every_tracker_takes(tmp_path: Path) -> None:
    told: list[str] = []
    watching = opened(tmp_path, ["csv"], told)
    watching.evaluated(0, {0: 2.0, 1: 3.0}, 0.1)
    watching.event("trained", {"epoch": 2, "member": 1, "losses": (1.5, float("nan"))})
    watching.event("sat_out", {"epoch": 2, "member": 1})
    watching.close()
    assert told == []
    assert figures(tmp_path) == [
        ("epoch", "0", "loss/silo _0_x"), ("epoch", "0", "loss/silo _1_x"), ("epoch", "0", "loss/mean"),
        ("local_step", "5", "training_loss/silo _1_x"),
    ]  # fmt: skip


def test_of_many_members_each_is_not_shown(tmp_path: Path) -> None:
    watching = opened(tmp_path, ["csv"], [])
    watching.evaluated(0, dict.fromkeys(range(1_000), 2.0), 0.1)
    watching.event("trained", {"epoch": 1, "member": tracking.MAX_MEMBERS, "losses": (1.5,)})
    watching.close()
    names = [name for _, _, name in figures(tmp_path)]
    assert len(names) == tracking.MAX_MEMBERS + 1 and names[-1] == "loss/mean"


def test_a_tracker_that_fails_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str) -> type[Tracker]:
        if name == "broken":
            raise ImportError("no such thing")
        return {"csv": CsvFile, "flaky": Flaky}[name]

    monkeypatch.setattr(tracking, "get_tracker", get)
    told: list[str] = []
    watching = opened(tmp_path, ["broken", "flaky", "csv"], told)
    for epoch in range(3):
        watching.evaluated(epoch, {0: 2.0}, 0.1)
    watching.close()
    assert told == [
        "tracker broken failed and is left out from here on: no such thing",
        "tracker flaky failed and is left out from here on: no route to host",
    ]
    assert [step for _, step, _ in figures(tmp_path)] == ["0", "0", "1", "1", "2", "2"]
