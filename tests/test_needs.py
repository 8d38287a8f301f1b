"""What `make test-fast` leaves out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HEAVY
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[1]


def test_fast_tests_import_nothing_that_takes_long(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--fast"):
        assert not any(map(sys.modules.get, HEAVY))
        return
    command = [sys.executable, "-m", "pytest", "--fast", "--collect-only", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stdout[-3000:]
