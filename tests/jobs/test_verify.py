"""`jobs/verify.py` as a user types it: what it tells, and the exit code of each end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flock_ray.commands.main import main as run_command
from flock_ray.errors import RunDirectoryError, VerificationError
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.runs import Run

JOB = Path(__file__).parents[2] / "jobs" / "verify.py"


@pytest.fixture(scope="module")
def main() -> Callable[[list[str]], int]:
    """What the job calls, in this process: a new one would import for seconds."""
    return lambda arguments: run_command(["verify", *arguments])


def test_a_true_run_holds(whole_run: Run, main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(whole_run.path)]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    lines = output.splitlines()
    assert lines[-1] == "Everything that can be checked holds."
    assert any(line.startswith("epoch 2") and "signatures" in line for line in lines)
    assert "Not provable from outside: losses" in output
    assert whole_run.hash in output


def test_a_false_one_ends_in_one_line_and_its_own_code(
    whole_run: Run, main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(whole_run.path, copy, ignore=shutil.ignore_patterns("members"))
    record = json.loads((copy / "records/2.json").read_text())
    record["pool_left"] += 1
    (copy / "records/2.json").write_text(json.dumps(record))
    assert main([str(copy)]) == VerificationError.exit_code
    output, errors = capsys.readouterr()
    assert "Everything" not in output
    (line,) = errors.splitlines()
    assert line.startswith("does not hold: epoch 2 record.pool_left: claimed ")


def test_an_unfinished_run_is_told_from_a_false_one(
    whole_run: Run, main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("task.json", "config.yaml"):
        shutil.copy(whole_run.path / name, tmp_path / name)
    assert main([str(tmp_path)]) == RunDirectoryError.exit_code
    assert "name the run's store with --store URL" in capsys.readouterr().err
    assert main([str(tmp_path), "--store", str(whole_run.path / "store")]) == RunDirectoryError.exit_code
    assert "unfinished run: summary.json is missing" in capsys.readouterr().err
    value = json.loads((tmp_path / "task.json").read_text())
    value["schema"] = "flock_ray/run/1"
    (tmp_path / "task.json").write_text(json.dumps(value))
    assert main([str(tmp_path), "--store", str(whole_run.path / "store")]) == RunDirectoryError.exit_code
    assert "the run was made by another version" in capsys.readouterr().err


@pytest.mark.chain
@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["{}/nowhere"], RunDirectoryError.exit_code, "holds no run: task.json is missing"),
        ([], 2, "required: RUN_DIR"),
        (["{}", "--anchor", "0x12"], 2, "a hash has 64 hex digits"),
        (["{}", "--store", "warehouse://x"], RunDirectoryError.exit_code, "holds no run"),
    ],
)
def test_a_wrong_command_line_is_told(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str],
    code: int, reason: str,
) -> None:  # fmt: skip
    try:
        ended = main([argument.format(tmp_path) for argument in arguments])
    except SystemExit as left:
        ended = int(str(left.code))
    assert ended == code
    assert reason in capsys.readouterr().err


def test_help_is_quick_and_says_what_an_anchor_is() -> None:
    ended = subprocess.run([sys.executable, str(JOB), "--help"], capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0
    assert "--anchor HASH" in ended.stdout
    assert "a forger who made up all members would pass" in " ".join(ended.stdout.split())
