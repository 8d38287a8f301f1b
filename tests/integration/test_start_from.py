"""A run that goes on from the adapter of another one, or of PEFT's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.errors import ModelError
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from tests.runs import Head, Run, tiny

pytestmark = pytest.mark.ray


def test_a_run_goes_on_from_another_and_verifies(
    head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    earlier = shutil.copytree(whole_run.path, tmp_path / "earlier", symlinks=True)
    again = head.run(tmp_path / "outputs", *tiny(tiny_model_dir, f"start_from={earlier}", "alliance.num_epochs=1"))
    terms = RunDirectory(again.path).read_task()[0]["terms"]
    assert terms["start_adapter"] == whole_run.hash
    ended = whole_run.summary["epochs"][-1]["eval_loss_after"]
    began = again.summary["epochs"][0]["eval_loss_before"]
    assert began == pytest.approx(ended, abs=1e-6)
    shutil.rmtree(earlier)  # it has served
    lines: list[str] = []
    verify_run(RunFolder(again.path, ""), "", "", lines.append)
    assert any(line.startswith("start      adapter") and whole_run.hash in line for line in lines)


def test_an_adapter_that_does_not_fit_is_refused(
    head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    for overrides, told in (
        (["lora.rank=4"], "has rank 8, more than lora.rank = 4"),
        (["lora.target_modules=[q_proj]"], "has also factors of down_proj"),
    ):
        with pytest.raises(ModelError, match=told):
            head.run(tmp_path, *tiny(tiny_model_dir, f"start_from={whole_run.path}/adapter", *overrides))
