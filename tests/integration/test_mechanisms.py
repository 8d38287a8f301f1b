"""The other mechanisms, from start to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import Head, tiny

pytestmark = pytest.mark.ray


def test_flock_pays_and_slashes_by_the_vote_on_the_mean(head: Head, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = head.run(tmp_path, *tiny(tiny_model_dir, "mechanism=flock", "adversary=none"))
    assert run.summary["run"]["mechanism"] == "flock"
    epochs = run.summary["epochs"]
    assert [epoch["accepted"] for epoch in epochs] == [True, True]
    for epoch in epochs:
        assert [proposal["score"] for proposal in epoch["proposals"]] == [None] * 4  # ballot B only
        assert epoch["candidate_score"] > 0
    earned = [member["earned_wei"] for member in run.summary["members"]]
    pool = 1_000 * 10**18
    assert 0 < sum(earned) <= pool
    assert len({member["stake_wei"] for member in run.summary["members"]}) == 1


def test_open_accepts_every_valid_proposal_and_pays_alike(head: Head, tiny_model_dir: Path, tmp_path: Path) -> None:
    run = head.run(tmp_path, *tiny(tiny_model_dir, "mechanism=open", "chain=none"))
    for epoch in run.summary["epochs"]:
        assert epoch["accepted"] and epoch["candidate_score"] is None
        assert [proposal["status"] for proposal in epoch["proposals"]] == ["accepted"] * 4
    times = [member["times_proposer"] for member in run.summary["members"]]
    earned = [member["earned_wei"] for member in run.summary["members"]]
    assert sum(times) == 8
    assert len({wei // count for wei, count in zip(earned, times, strict=True) if count}) == 1
