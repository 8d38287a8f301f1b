"""A run whose leading process is gone without a word ends with a line and a code all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flock_ray.errors import FlockRayError, RayLostError, WorkerMemoryError
from tests.waiting import PATIENCE, wait_until

START = "import os, signal, sys, time\nfrom pathlib import Path\nfrom flock_ray.commands.guard import guarded, lead\n"


def guard(act: str, folder: Path) -> subprocess.Popen[str]:
    body = "\n".join(f"    {line}" for line in act.splitlines())
    code = f"{START}def act():\n{body}\nsys.exit(guarded(act, sys.exit))"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(act: str, folder: Path) -> tuple[int, str, str]:
    process = guard(act, folder)
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors


@pytest.mark.parametrize("code", [0, 33])
def test_what_our_own_watchdog_ends_is_not_told_twice(tmp_path: Path, code: int) -> None:
    assert ended(f"os._exit({code})", tmp_path) == (code, "", "")


@pytest.mark.parametrize("code", [0, 7, 130])
def test_its_own_end_is_passed_on(tmp_path: Path, code: int) -> None:
    assert ended(f"print('said', flush=True)\nsys.exit({code})", tmp_path) == (code, "said\n", "")


def test_a_run_that_something_else_ended_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "task.json").touch()
    code, _, errors = ended(f"lead(Path({str(tmp_path)!r}))\nos._exit(1)", tmp_path)
    told = "error: Ray ended this run, because its raylet on this machine died"
    assert (code, errors) == (RayLostError.exit_code, f"{told}; resume={tmp_path} continues\n")
    code, _, errors = ended(f"lead(Path({str(tmp_path)!r}))\nos.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert code == WorkerMemoryError.exit_code and "SIGKILL" in errors and f"resume={tmp_path}" in errors
    code, _, errors = ended("os.kill(os.getpid(), signal.SIGSEGV)", tmp_path)
    assert (code, errors) == (FlockRayError.exit_code, "error: the process that leads the run was ended by SIGSEGV\n")


def test_of_a_run_that_never_began_nothing_stays(tmp_path: Path) -> None:
    run = tmp_path / "day" / "time"
    run.mkdir(parents=True)
    code, _, errors = ended(f"lead(Path({str(run)!r}))\nos._exit(1)", tmp_path)
    assert code == RayLostError.exit_code and str(run) not in errors and not (tmp_path / "day").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(tmp_path: Path, number: int) -> None:
    act = f"signal.signal({number}, lambda *_: sys.exit(77))\nprint('ready', flush=True)\nwhile True: time.sleep(0.01)"
    process = guard(act, tmp_path)
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 77


def test_it_is_killed_with_the_process_that_the_user_started(tmp_path: Path) -> None:
    process = guard("print(os.getpid(), flush=True)\nwhile True: time.sleep(1)", tmp_path)
    assert process.stdout
    child = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    wait_until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])
