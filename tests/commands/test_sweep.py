"""`flock-ray sweep` before any run starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flock_ray.cluster.placement import available_cpus
from flock_ray.commands.main import main
from flock_ray.config import Config
from flock_ray.errors import CaptureRiskError, ConfigError, PlacementError, RunDirectoryError
from flock_ray.sweeps.point import Point, PointFolder
from flock_ray.sweeps.processes import only_sweep
from tests.sweeps.points import begin_run, end_run

pytestmark = pytest.mark.chain  # the module that prints imports an EVM

SMALL = ("chain=none", "cluster.nodes=1")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(capsys: pytest.CaptureFixture[str], *words: str, job: str = "alliance") -> dict[str, Any]:
    assert main(["sweep", job, *words, "--dry-run", "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def folder_of(root: Path, point: str, code: str) -> PointFolder:
    folder = PointFolder(root / "points", Point(point, "alliance", {}, (), Config()))
    folder.create(code)
    return folder


def test_the_plan_says_how_far_each_point_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = (*SMALL, "seed=1,2", "training.learning_rate=1e-3,2e-3")
    plan = planned(capsys, *words)
    assert [point["settings"] for point in plan["points"]] == [
        {"seed": seed, "training.learning_rate": rate} for seed in (1, 2) for rate in (0.001, 0.002)
    ]
    assert {point["state"] for point in plan["points"]} == {"new"} and not list(tmp_path.iterdir())
    assert planned(capsys, *words[::-1])["points"] != plan["points"]  # another order of the same points
    assert planned(capsys, *words[::-1])["results"] == plan["results"]

    root = tmp_path / "outputs" / "sweeps"
    assert Path(plan["results"]).parent == root
    for point, make in zip(plan["points"], (begin_run, end_run), strict=False):
        make(folder_of(root, point["point"], plan["code"]))
    folder_of(root, plan["points"][2]["point"], plan["code"]).ended(21, 1.0, 0)
    states = ["begun", "whole", "failed", "new"]
    assert [point["state"] for point in planned(capsys, *words)["points"]] == states
    larger = planned(capsys, *SMALL, "seed=1,2,3", "training.learning_rate=1e-3,2e-3")["points"]
    assert [point["state"] for point in larger] == [*states, "new", "new"]

    assert main(["sweep", "alliance", *words, "plan_only=true"]) == 0
    told = capsys.readouterr().out
    assert "alliance: 4 points: 1 whole, 1 failed, 1 begun, 1 new; " in told
    assert "Nothing is started" in told and "Disk: about" not in told


def test_axes_that_are_groups_have_the_names_of_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(capsys, *SMALL, "mechanism=glob(*)", "adversary.members=choice([3],[3,5])")
    assert [tuple(point["settings"].values()) for point in plan["points"]] == [
        (name, members) for name in ("flock", "marginal", "marginal1", "open") for members in ([3], [3, 5])
    ]
    (rows := Path("rows.jsonl")).write_text("{}")
    contest = planned(
        capsys, "experiment=arena_tiny", f"contest.data=[{rows}]", f"contest.train=[{rows}]", "seed=1,2", job="arena"
    )
    assert [point["settings"] for point in contest["points"]] == [{"seed": 1}, {"seed": 2}]


def test_a_window_fits_the_cores_unless_another_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    cores = available_cpus()
    many = f"seed=range({2 * cores + 1})"
    assert planned(capsys, *SMALL, many)["window"] == cores
    assert planned(capsys, *SMALL, many, f"cluster.cpus_per_worker={cores}")["window"] == 1
    assert planned(capsys, *SMALL, "seed=1")["window"] == 1
    assert main(["sweep", "alliance", *SMALL, many, f"sweep.window={2 * cores}", "--dry-run"]) == 0
    assert f"note: {2 * cores} points of 1 CPU each share {cores} cores" in capsys.readouterr().out
    assert planned(capsys, "chain=none", "cluster=existing", "cluster.cpus_per_worker=4096", many)["window"] == 1
    existing = ("chain=rpc", "chain.url=http://127.0.0.1:1", "cluster.nodes=1", "seed=1,2,3")
    assert planned(capsys, *existing)["window"] == 1
    assert planned(capsys, "chain=anvil", "chain.port=8545", "cluster.nodes=1", "seed=1,2,3")["window"] == 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["seed=1,2", "alliance.num_voterz=4"], ConfigError, "the point seed=1: unknown configuration key"),
        (["seed=1,2", "experiment=moon"], ConfigError, "there is no experiment=moon"),
        (["training.steps=4,0"], ConfigError, "1 of 2 points are refused; training.steps=0: training.steps is 0"),
        (["aggregation.rule=mean,nothing"], ConfigError, "1 of 2 points are refused; aggregation.rule=nothing: "),
        (
            ["alliance.num_members=64", "alliance.assumed_malicious=0.3", "alliance.num_voters=5,6"],
            CaptureRiskError, "2 of 2 points are refused; alliance.num_voters=5: ",
        ),
        (["cluster.mode=local,local"], ConfigError, "has the value local twice"),
        (["model.dtype=float32,'float32'"], ConfigError, "give the same configuration, so that they would be one run"),
        (["seed=1,2", "seed=3"], ConfigError, "seed is set twice"),
        (["seed=1,2", "resume=x"], ConfigError, "'resume=x' has no place in a sweep"),
        (["seed=1,2", "output_dir=x"], ConfigError, "'output_dir=x' has no place in a sweep"),
        (["seed=1", "sweep.windw=2"], ConfigError, "unknown setting 'sweep.windw=2'; did you mean sweep.window=…"),
        (["seed=1", "sweep.window=-1"], ConfigError, "sweep.window is -1; it must be 0 or more"),
        (["seed=1", "sweep.retry=yes"], ConfigError, "sweep.retry is 'yes'; it must be true or false"),
        (["seed=1", "cluster.cpus_per_worker=4096"], PlacementError, "2 node groups of 4096 CPU each do not fit"),
        (["seed=1,2", "cluster.gpus_per_worker=1"], PlacementError, "1 point(s) at a time of 2 GPU each do not fit"),
        (
            ["seed=1,2", "chain=rpc", "chain.url=http://127.0.0.1:1", "sweep.window=2"],
            ConfigError, "sweep.window is 2, and there is only one of the accounts of creator and relayer",
        ),
        (
            ["seed=1,2", "store.url=memory://x", "store.shared=false", "chain=none"],
            ConfigError, "the points of a sweep share store.url",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    code: type[ConfigError],
    told: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["sweep", "alliance", *words]) == code.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and told in line
    assert not list(tmp_path.iterdir())


def test_a_folder_takes_one_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with only_sweep(tmp_path / "here"):
        assert main(["sweep", "alliance", *SMALL, "seed=1", "sweep.folder=here"]) == RunDirectoryError.exit_code
    assert "another sweep plays in" in capsys.readouterr().err


def test_what_is_whole_is_shown_without_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = (*SMALL, "seed=1,2", "mechanism=flock,open", "sweep.folder=there")
    plan = planned(capsys, *words)
    for number, point in enumerate(plan["points"]):
        folder = folder_of(tmp_path / "there", point["point"], plan["code"])
        end_run(folder, (3.0, 2.0 + number / 10))
        folder.ended(0, 1.0, 0)
    assert main(["sweep", "alliance", *words]) == 0
    told = capsys.readouterr().out
    assert "4 points: 4 whole" in told and "started" not in told
    assert "2.1000 ± 0.1000" in told and "2.2000 ± 0.1000" in told
    results = Path(plan["results"])
    assert len((results / "results.jsonl").read_text().splitlines()) == 4 and (results / "index.html").is_file()
    assert main(["sweep", "alliance", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["settings"]["mechanism"] for row in found["table"]] == ["flock", "open"]
    assert [row["figures"]["loss_after"] for row in found["points"]] == [2.0, 2.1, 2.2, 2.3]
