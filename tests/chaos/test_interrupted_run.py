"""Ctrl-C and SIGTERM in the middle of training: one line that says how to go on, and nothing stays behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from flock_ray.chain.anvil import find_anvil
from tests.runs import ALLIANCE, command_running, processes, tiny
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.ray


def test_ctrl_c_reaches_every_process_of_the_terminal(tiny_model_dir: Path, tmp_path: Path) -> None:
    chain = "anvil" if find_anvil() else "eth_tester"
    interrupted(tiny_model_dir, tmp_path, chain, to_the_group=True, number=signal.SIGINT)


def test_sigterm_as_a_ray_job_is_stopped(tiny_model_dir: Path, tmp_path: Path) -> None:
    interrupted(tiny_model_dir, tmp_path, "eth_tester", to_the_group=False, number=signal.SIGTERM)


def interrupted(model: Path, tmp_path: Path, chain: str, to_the_group: bool, number: signal.Signals) -> None:
    log = tmp_path / "output"
    overrides = tiny(model, f"output_dir={tmp_path}", f"chain={chain}", "training.steps=20000")
    with command_running([*ALLIANCE, *overrides], tmp_path) as process:
        wait_until(lambda: "\ntrain" in log.read_text(), process=process)
        mark = process.mark  # type: ignore[attr-defined]
        names = " ".join(processes(mark).values())
        assert "raylet" in names and ("anvil" in names) == (chain == "anvil")
        send = os.killpg if to_the_group else os.kill
        send(process.pid, number)
        assert process.wait(PATIENCE) == 130, log.read_text()
        wait_until(lambda: not processes(mark))
    run = (tmp_path / "latest").resolve()
    lines = log.read_text().splitlines()
    assert [line for line in lines if "resume=" in line] == [f"Interrupted; go on with: resume={run}"]
    assert lines[-1] == "error: interrupted"
    assert not any("Traceback" in line for line in lines)
    assert not list((run / "records").iterdir()) and not (run / "summary.json").exists()
