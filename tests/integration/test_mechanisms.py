"""The other mechanisms and the other engine, from start to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import Head, Run, tiny

pytestmark = pytest.mark.integration


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


def test_two_ranks_under_deepspeed_train_what_one_does(
    head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    run = head.run(tmp_path, *tiny(tiny_model_dir, "chain=none", "training=deepspeed", "cluster.workers_per_node=2"))
    assert "engine deepspeed" in run.summary["run"]["placement"]
    final, other = (one.summary["epochs"][-1] for one in (run, whole_run))
    assert final["accepted"] and other["accepted"]
    for silo, loss in final["eval_loss_after"].items():
        assert loss == pytest.approx(other["eval_loss_after"][silo], abs=0.05)
