"""Whole sweeps, as commands: interrupted, killed, gone on with, retried; on this machine and as jobs of a cluster."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobSubmissionClient

from flock_ray.cluster.point_jobs import JobRunner
from flock_ray.cluster.run_directory import load_config
from flock_ray.errors import ClusterError, ModelError, SweepError
from flock_ray.sweeps.identity import NOT_NAMED, code_version, point_id
from flock_ray.sweeps.point import State
from tests.chaos.test_killed_run import signed_places
from tests.contests import overrides_of
from tests.runs import ROOT, Head, Run, command_running, read_summary, timeless, tiny
from tests.sweeps.points import folder_of
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.ray

SWEEP = (sys.executable, str(ROOT / "jobs" / "sweep.py"))


def words_of(model: Path, folder: Path, *more: str) -> list[str]:
    """Three points: a tiny run, one that adapts fewer layers, and one that adapts layers that there are not."""
    axis = "lora.target_modules=choice([all-linear],[q_proj],[nothing])"
    return ["alliance", *tiny(model), axis, f"sweep.folder={folder}", *more]


def ended(log: Path, words: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a sweep."""
    with command_running([*SWEEP, *words], log) as process:
        code = process.wait(PATIENCE)
    return code, (log / "output").read_text()


def rows_of(folder: Path) -> list[dict[str, Any]]:
    (results,) = folder.glob("*/results.jsonl")
    return [json.loads(line) for line in results.read_text().splitlines()]


def runs_of(folder: Path) -> list[Path]:
    """The runs that came to a task."""
    return sorted(task.parent for task in folder.glob("points/*/*/*/task.json"))


def path_of(row: dict[str, Any], folder: Path) -> Path:
    (results,) = folder.glob("*/results.jsonl")
    return (results.parent / row["run"]).resolve()


def test_interrupted_killed_gone_on_with_and_retried(whole_run: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweeps"
    words = words_of(tiny_model_dir, folder, "sweep.window=1")
    log = tmp_path / "output"

    with command_running([*SWEEP, *words], tmp_path) as process:
        wait_until(lambda: len(runs_of(folder)) > 0, process=process)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130, log.read_text()
        assert log.read_text().endswith("error: interrupted\n") and "the same command resumes them" in log.read_text()
        assert not list(folder.glob("points/*/*/*/summary.json"))

        with command_running([*SWEEP, *words], tmp_path) as killed:
            wait_until(lambda: bool(list(folder.glob("points/*/*/*/receipts/1.json"))), process=killed)
            killed.kill()
            killed.wait()
            assert not list(folder.glob("points/*/*/*/summary.json"))
            code, output = ended(tmp_path, words)  # while its runs still end
    assert code == SweepError.exit_code, output
    assert "resumed  lora.target_modules=[all-linear]" in output
    assert "1 of 3 points failed, with exit codes (points) 21 (1); sweep.retry=true plays them once more" in output

    first, second, failed = rows_of(folder)
    assert [row["state"] for row in (first, second, failed)] == ["whole", "whole", "failed"]
    assert failed["exit_code"] == ModelError.exit_code and failed["figures"] == {} and "nothing" in failed["error"]
    assert failed["settings"] == {"lora.target_modules": ["nothing"]}
    assert len(runs_of(folder)) == 2 and {path_of(row, folder) for row in (first, second)} == set(runs_of(folder))
    resumed = read_summary(path_of(first, folder))
    assert resumed.hash == first["figures"]["final_adapter_hash"] == whole_run.hash
    assert resumed.records() == whole_run.records() and timeless(resumed.summary) == timeless(whole_run.summary)
    assert second["figures"]["final_adapter_hash"] != whole_run.hash
    for run in runs_of(folder):
        assert len(signed_places(run)) == len(set(signed_places(run)))

    code, output = ended(tmp_path, words)
    assert code == SweepError.exit_code and "3 points: 2 whole, 1 failed" in output
    assert "started" not in output and "resumed" not in output and rows_of(folder) == [first, second, failed]
    code, output = ended(tmp_path, [*words, "sweep.retry=true"])
    assert code == SweepError.exit_code and output.count("started") == 1
    assert rows_of(folder)[:2] == [first, second] and rows_of(folder)[2]["attempts"] == failed["attempts"] + 1


def test_a_run_has_the_configuration_that_its_point_is_named_by(tiny_model_dir: Path, tmp_path: Path) -> None:
    words = [*tiny(tiny_model_dir, "chain=none"), "alliance.num_epochs=1"]
    words = [word for word in words if word not in ("alliance.num_epochs=2", "chain=eth_tester")]
    code, output = ended(tmp_path, ["alliance", *words, f"sweep.folder={tmp_path}"])
    assert code == 0, output
    (run,) = runs_of(tmp_path)
    assert point_id("alliance", load_config(run), code_version()) == run.parents[1].name
    assert NOT_NAMED[0] == "output_dir" and load_config(run).output_dir == str(run.parents[1])
    assert f"Page: {tmp_path}" in output


def test_a_sweep_of_contests(tiny_model_dir: Path, tmp_path: Path) -> None:
    words = overrides_of(tiny_model_dir, tmp_path, "seed=1,2", "sweep.fail_fast=true", "sweep.window=2")
    code, output = ended(tmp_path, ["arena", *words, f"sweep.folder={tmp_path}", "--json"])
    assert code == 0, output
    rows = rows_of(tmp_path)
    assert [row["settings"] for row in rows] == [{"seed": 1}, {"seed": 2}]
    assert all(row["figures"]["days"] == 2 and row["figures"]["leader_score"] > 0 for row in rows)
    assert all((path_of(row, tmp_path) / "leaderboard.html").is_file() for row in rows)
    assert rows[0]["figures"]["final_adapter_hash"] != rows[1]["figures"]["final_adapter_hash"]


def test_each_point_is_a_job_of_a_cluster(head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweeps"
    words = words_of(tiny_model_dir, folder, f"sweep.address={head.dashboard}", "sweep.window=3")
    client = JobSubmissionClient(head.dashboard)

    def jobs() -> dict[str, str]:
        points = {path.name for path in (folder / "points").iterdir()}
        found = {job.submission_id: str(job.status) for job in client.list_jobs() if job.submission_id}
        return {name: status for name, status in found.items() if name.split("-")[0] in points}

    with command_running([*SWEEP, *words], tmp_path) as process:
        wait_until(lambda: len(runs_of(folder)) > 0, process=process)
        process.kill()  # its jobs go on
        process.wait()
    code, output = ended(tmp_path, words)
    assert code == SweepError.exit_code, output
    first, second, failed = rows_of(folder)
    assert [row["state"] for row in (first, second, failed)] == ["whole", "whole", "failed"]
    assert first["figures"]["final_adapter_hash"] == whole_run.hash
    assert failed["exit_code"] == ModelError.exit_code and "nothing" in failed["error"]
    assert len(runs_of(folder)) == 2
    assert {first["point"], second["point"], failed["point"]} <= jobs().keys()
    assert jobs()[first["point"]] == "SUCCEEDED" and jobs()[failed["point"]] == "FAILED"
    assert "Final adapter" in client.get_job_logs(first["point"])  # it may have ended while no sweep followed it
    assert "error: " in (folder / "points" / failed["point"] / "output.log").read_text()

    before = jobs()
    code, output = ended(tmp_path, words)
    assert code == SweepError.exit_code and jobs() == before and rows_of(folder) == [first, second, failed]


def test_a_sweep_that_is_a_job_itself(head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    environment = {"env_vars": {"HOME": str(tmp_path)}}
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", head.dashboard]
    submit += ["--working-dir", str(ROOT), "--runtime-env-json", json.dumps(environment), "--"]
    with command_running([*submit, "python", "jobs/sweep.py", "alliance", *tiny(tiny_model_dir)], tmp_path) as process:
        assert process.wait(PATIENCE) == 0, (tmp_path / "output").read_text()[-3000:]
    (run,) = runs_of(tmp_path / "flock_ray_sweeps")
    assert read_summary(run).hash == whole_run.hash
    (row,) = rows_of(tmp_path / "flock_ray_sweeps")
    assert row["code"].startswith("flock-ray ") and row["settings"] == {}


def test_a_cluster_that_is_not_there(tiny_model_dir: Path, tmp_path: Path) -> None:
    code, output = ended(tmp_path, words_of(tiny_model_dir, tmp_path / "sweeps", "sweep.address=http://127.0.0.1:1"))
    assert code == ClusterError.exit_code and "no jobs can be submitted to 'http://127.0.0.1:1'" in output
    assert not (tmp_path / "sweeps").exists()


def test_a_job_that_does_not_see_the_folder_of_the_sweep(head: Head, tmp_path: Path) -> None:
    runner = JobRunner(head.dashboard)
    assert sum(machine["CPU"] for machine in runner.machines()) == 2
    folder = folder_of(tmp_path, 1)
    folder.mark.unlink()
    job, codes = runner.start(folder, 0), list[int]()
    wait_until(lambda: (code := job.poll()) is not None and not codes.append(code))
    assert codes == [ClusterError.exit_code]
    assert folder.ended(codes[0], 1.0, 0) is State.failed
    assert folder.outcome and folder.outcome.error == (
        f"{folder.path} is not on this node: sweep.folder must be a place that every node sees"
    )
