"""Where its raylet dies, Ray ends the process that leads a run: one line, its own exit code, and `resume` goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from flock_ray.errors import RayLostError
from tests.runs import ALLIANCE, Run, command_running, processes, read_summary, tiny
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.ray


def test_a_run_goes_on_after_the_raylet_of_its_driver_died(
    whole_run: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    latest = tmp_path / "latest"
    with command_running([*ALLIANCE, *tiny(tiny_model_dir, f"output_dir={tmp_path}")], tmp_path) as process:
        wait_until((latest / "task.json").exists, process=process)
        mark = process.mark  # type: ignore[attr-defined]
        [raylet] = [pid for pid in processes(mark) if os.readlink(f"/proc/{pid}/exe").endswith("/raylet")]
        os.kill(raylet, signal.SIGKILL)
        assert process.wait(PATIENCE) == RayLostError.exit_code
    told = (tmp_path / "output").read_text().splitlines()[-1]
    assert told.startswith("error: Ray") and f"resume={latest.resolve()}" in told
    with command_running([*ALLIANCE, f"resume={latest.resolve()}"], tmp_path) as process:
        assert process.wait(PATIENCE) == 0, (tmp_path / "output").read_text()[-3000:]
    assert read_summary(latest).hash == whole_run.hash
