from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.errors import RunDirectoryError
from flock_ray.sweeps.point import State, quoted
from tests.sweeps.points import begin_run, end_run, folder_of


def test_the_states_of_a_point(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    assert folder.state is State.new and folder.outcome is None
    assert folder.command() == ["alliance", "seed=1", f"output_dir='{folder.path}'"]
    (folder.path / "2026-12-01" / "06-00-00").mkdir(parents=True)  # of a run that came to no task
    assert folder.state is State.new

    run = begin_run(folder)
    assert folder.state is State.begun and folder.run == run
    assert folder.command() == ["alliance", f"resume='{run}'"]
    assert folder.ended(130, 1.5, 0) is State.begun

    folder.log.write_text("error: of an earlier attempt\n")
    start = folder.log.stat().st_size
    assert folder.ended(20, 1.0, start) is State.failed
    assert folder.outcome and (folder.outcome.error, folder.outcome.attempts, folder.outcome.seconds) == ("", 2, 2.5)
    with folder.log.open("a") as log:
        log.write("epoch 1\nerror: first\nerror: silo 3 is empty\nlast words\n")
    folder.ended(20, 1.0, start)
    assert folder.outcome.error == "silo 3 is empty" and folder.outcome.bytes > 0

    folder.begins()  # killed in this attempt: it goes on, and what failed before says nothing
    assert folder.state is State.begun and folder.outcome.attempts == 3

    end_run(folder)
    assert folder.ended(0, 1.0, start) is State.whole
    assert folder.outcome and (folder.outcome.error, folder.outcome.attempts) == ("", 4)


def test_rewards_that_are_not_paid_yet_leave_a_point_begun(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    summary = end_run(folder) / "summary.json"
    summary.write_text(json.dumps({"chain": {"rewards_pending": "the chain was away"}}))
    assert folder.ended(0, 1.0, 0) is State.begun


def test_a_damaged_outcome_is_no_state(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    for content in ("{", "[]", '{"exit_code": 0}'):
        (folder.path / "outcome.json").write_text(content)
        with pytest.raises(RunDirectoryError, match=r"outcome\.json"):
            _ = folder.state


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1).filter(lambda text: "$" not in text)
)
def test_any_path_is_a_value(text: str) -> None:
    override = OverridesParser.create().parse_override(f"output_dir={quoted(text)}")
    assert override.value() == text and not override.is_sweep_override()
