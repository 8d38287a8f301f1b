from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden import GOLDEN, default_experiment, simulated_run

pytestmark = pytest.mark.model


def test_a_simulated_run_signs_what_it_always_did(tmp_path: Path) -> None:
    assert simulated_run(tmp_path) == json.loads(GOLDEN.read_text())["simulated_run"]


def test_the_default_experiment_is_the_task_that_it_always_was(tmp_path: Path) -> None:
    assert default_experiment(tmp_path) == json.loads(GOLDEN.read_text())["default_experiment"]
