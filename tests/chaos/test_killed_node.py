"""A worker dies in the middle of a phase: its group is rebuilt whole and answers with the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from flock_ray.cluster.groups import NodeGroups
from flock_ray.errors import NodeGroupError
from tests.runs import Head, Run, timeless, tiny

pytestmark = pytest.mark.ray


def process_of(group: int) -> int:
    actor = ray.get_actor(f"node-{group}-0")
    return int(ray.get(actor.__ray_call__.options(concurrency_group="health").remote(lambda _: os.getpid())))


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(phase, group) to be killed, in this order, with the phase asked of it and not answered."""
    due: list[tuple[str, int]] = []
    run = NodeGroups.run

    def run_and_kill(self: NodeGroups, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        if not due or due[0][0] != method:
            return run(self, method, *args)
        victim = process_of(due.pop(0)[1])
        os.kill(victim, signal.SIGSTOP)  # so it cannot have answered by the time that it dies
        results = run(self, method, *args)
        os.kill(victim, signal.SIGKILL)
        return results

    monkeypatch.setattr(NodeGroups, "run", run_and_kill)
    return due


def test_each_group_may_die_once_in_training_or_voting(
    head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path, kills: list[tuple[str, int]]
) -> None:
    kills += [("train", 0), ("commit_ballots_b", 1)]
    run = head.run(tmp_path, *tiny(tiny_model_dir, "cluster.nodes=2"))
    assert not kills
    failed = [(event["phase"], event["group"], event["cause"]) for event in run.events("node_group_failed")]
    assert failed == [("train", 0, "worker_died"), ("commit_ballots_b", 1, "worker_died")]
    assert run.records() == whole_run.records()
    assert timeless(run.summary) == timeless(whole_run.summary)


@pytest.mark.deep
def test_a_group_that_dies_four_times_without_a_signed_epoch_ends_the_run(
    head: Head, tiny_model_dir: Path, tmp_path: Path, kills: list[tuple[str, int]]
) -> None:
    kills += [("train", 0), ("acknowledge", 0), ("publish", 0), ("commit_ballots_a", 0)]
    with pytest.raises(NodeGroupError, match="4 times without a signed epoch in between") as refused:
        head.run(tmp_path, *tiny(tiny_model_dir, "chain=none"))
    assert refused.value.exit_code == 31
    assert not (tmp_path / "latest" / "summary.json").exists()
