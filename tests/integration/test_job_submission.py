"""`ray job submit` against a cluster that `ray start --head` started."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.contests import overrides_of
from tests.runs import ROOT, Head, Run, command_running, read_summary, tiny
from tests.waiting import PATIENCE

pytestmark = pytest.mark.ray

UPLOAD_LIMIT = 20 << 20  # bytes


def submitted(head: Head, home: Path, *command: str) -> tuple[Path, list[str]]:
    """Submit a job and wait for its end; the folder of its run, and the lines that it printed."""
    environment = {"env_vars": {"HOME": str(home)}}
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", head.dashboard]
    submit += ["--working-dir", str(ROOT), "--runtime-env-json", json.dumps(environment)]
    log = home / "output"
    with command_running([*submit, "--", "python", *command], home) as process:
        assert process.wait(PATIENCE) == 0, log.read_text()[-4000:]
    run = (home / "flock_ray_outputs" / "latest").resolve()
    assert "mode: existing" in (run / "config.yaml").read_text()
    return run, log.read_text().splitlines()


def test_a_contest_is_submitted_in_the_same_way(head: Head, tiny_model_dir: Path, tmp_path: Path) -> None:
    run, lines = submitted(head, tmp_path, "jobs/arena.py", *overrides_of(tiny_model_dir, tmp_path))
    assert lines.count(f"Run folder: {run}") == 2
    summary = json.loads((run / "summary.json").read_text())
    assert summary["kind"] == "contest" and len(summary["days"]) == 2


def test_a_submitted_job_runs_on_its_own_cluster(
    head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    run, lines = submitted(head, tmp_path, "jobs/alliance.py", *tiny(tiny_model_dir))
    assert lines.count(f"Run folder: {run}") == 2
    assert read_summary(run).hash == whole_run.hash

    (uploaded,) = head.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    files = [path for path in uploaded.rglob("*") if path.is_file()]
    tops = {path.relative_to(uploaded).parts[0] for path in files}
    assert {"conf", "flock_ray", "jobs"} <= tops
    assert tops.isdisjoint({".venv", "outputs", ".git", "contracts"})
    assert sum(path.stat().st_size for path in files) < UPLOAD_LIMIT
