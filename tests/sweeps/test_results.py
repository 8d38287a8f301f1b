from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from flock_ray.errors import RunDirectoryError
from flock_ray.sweeps.grid import Axis, Grid
from flock_ray.sweeps.point import PointFolder
from flock_ray.sweeps.results import Results
from tests.sweeps.points import begin_run, end_run, folder_of
from tests.telemetry.pages import Page

GRID = Grid(
    (Axis("seed", "seed", ("1", "2", "3")), Axis("model", "model", ("a,b",))), ("chain=none", "chain.url=http://key@a")
)


@pytest.fixture
def folders(tmp_path: Path) -> list[PointFolder]:
    return [folder_of(tmp_path, number, seed=number, model="a,b") for number in (1, 2, 3)]


def lines(results: Results) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results.path / "results.jsonl").read_text().splitlines()]


def test_a_row_for_each_point_that_has_ended(tmp_path: Path, folders: list[PointFolder]) -> None:
    results = Results(tmp_path, "alliance", "commit 0", GRID, folders)
    begin_run(folders[2])
    end_run(folders[1], (3.0, 2.0), {True: 10, False: 30})
    folders[1].ended(0, 12.0, 0)
    results.begin()
    (row,) = lines(results)
    assert row["point"] == folders[1].name and (row["state"], row["exit_code"]) == ("whole", 0)
    assert row["settings"] == {"seed": 2, "model": "a,b"} and row["losses"] == [3.0, 2.0]
    assert row["figures"]["loss_after"] == 2.0 and row["figures"]["adversaries_share"] == 0.25
    assert (results.path / row["run"] / "summary.json").is_file()

    folders[0].log.write_text("error: silo 1 is empty\n")
    folders[0].ended(20, 1.0, 0)
    assert results.add(folders[0]) == f"silo 1 is empty ({folders[0].log})"
    failed, whole = lines(results)
    assert (failed["state"], failed["exit_code"], failed["error"]) == ("failed", 20, "silo 1 is empty")
    assert failed["figures"] == {} and failed["settings"]["seed"] == 1 and whole == row

    end_run(folders[0], (3.0, 2.5))
    folders[0].ended(0, 4.0, 0)
    assert results.add(folders[0]) == "loss 3.0000 -> 2.5000"
    assert [(row["exit_code"], row["attempts"], row["wall_seconds"]) for row in lines(results)] == [
        (0, 2, 5.0),
        (0, 1, 12.0),
    ]

    table = list(csv.DictReader((results.path / "results.csv").open()))
    assert [(row["seed"], row["model"], row["figures.model"], row["loss_after"]) for row in table] == [
        ("1", "a,b", "m", "2.5"), ("2", "a,b", "m", "2.0"),
    ]  # fmt: skip


def test_the_page_and_what_the_sweep_was(tmp_path: Path, folders: list[PointFolder]) -> None:
    results = Results(tmp_path, "alliance", "commit 0", GRID, folders)
    end_run(folders[0])
    folders[0].ended(0, 1.0, 0)
    folders[1].ended(20, 1.0, 0)
    results.begin()
    html = (results.path / "index.html").read_text()
    page = Page(html)
    named = [reference.partition("href=")[2] for reference in page.resources]
    assert len(named) == 3 and not {"script", "link", "img"} & set(page.tags)
    assert all((results.path / name).resolve().is_relative_to(tmp_path / "points") for name in named)
    for fact in ("seed × model", "chain=none", "commit 0", "exit code 20", "3: 1 whole, 1 failed, 1 left"):
        assert fact in html
    written = json.loads((results.path / "sweep.json").read_text())
    assert written["axes"] == {"seed": ["1", "2", "3"], "model": ["a,b"]} and written["fixed"] == ["chain=none"]
    assert written["points"] == [folder.name for folder in folders]
    assert not any("key@a" in path.read_text() for path in results.path.iterdir())


def test_the_same_points_have_the_same_folder_in_any_order(tmp_path: Path, folders: list[PointFolder]) -> None:
    first = Results(tmp_path, "alliance", "c", GRID, folders)
    assert first.path.name.startswith("alliance-model-seed-")
    assert Results(tmp_path, "alliance", "c", GRID, folders[::-1]).path == first.path
    assert Results(tmp_path, "alliance", "c", GRID, folders[:2]).path != first.path


def test_a_summary_that_is_none_is_told(tmp_path: Path, folders: list[PointFolder]) -> None:
    (begin_run(folders[0]) / "summary.json").write_text('{"chain": {}}')
    with pytest.raises(RunDirectoryError, match="is not what this version writes"):
        Results(tmp_path, "alliance", "c", GRID, folders).begin()
