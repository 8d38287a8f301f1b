"""The disk of the run folder is full: one line, its own exit code; with more room `resume` goes on."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from flock_ray.errors import StoreError
from tests.runs import ALLIANCE, Run, command_running, read_summary, tiny
from tests.waiting import PATIENCE

pytestmark = pytest.mark.ray

OWN_MOUNTS = ("unshare", "--mount", "--map-root-user")
SCRIPT = """
mount -t tmpfs -o size={size} none disk || exit 99
{run}
echo "code $?, left $(ls disk)"
mount -o remount,size=100m disk
{resume}
cp -r disk/latest/ whole
"""


def test_a_run_on_a_full_disk(whole_run: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    if subprocess.run([*OWN_MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    (tmp_path / "disk").mkdir()
    run = shlex.join([*ALLIANCE, *tiny(tiny_model_dir), "output_dir=disk"])
    script = SCRIPT.format(size="400k", run=run, resume=shlex.join([*ALLIANCE, "resume=disk/latest"]))
    with command_running([*OWN_MOUNTS, "sh", "-c", f"cd {tmp_path}\n{script}"], tmp_path) as process:
        assert process.wait(PATIENCE) == 0, (tmp_path / "output").read_text()[-3000:]
    lines = (tmp_path / "output").read_text().splitlines()
    assert f"code {StoreError.exit_code}, left " in "\n".join(lines)
    [told] = [line for line in lines if line.startswith("error: ")]
    assert "cannot be written: no space left on device; resume=" in told and told.endswith(" continues")
    assert read_summary(tmp_path / "whole").hash == whole_run.hash
