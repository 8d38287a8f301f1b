"""Same configuration and seed give the same bytes, wherever members run and in whatever order messages arrive."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from flock_ray.cluster.spec import PhaseResult
from tests.runs import Head, Run, timeless, tiny

pytestmark = pytest.mark.ray

CHANCE = random.Random(1)


def shuffled(results: Iterable[tuple[int, PhaseResult]]) -> list[tuple[int, PhaseResult]]:
    """All results of a phase, and the messages in each, in another order every time."""
    mixed = list(results)
    CHANCE.shuffle(mixed)
    return [
        (index, PhaseResult(tuple(reversed(one.messages)), one.seconds, one.events, one.losses, one.signatures))
        for index, one in mixed
    ]


def test_two_node_groups_give_the_bytes_of_one(
    head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    run = head.run(tmp_path, *tiny(tiny_model_dir, "cluster.nodes=2", "tracking=csv"), arrivals=shuffled)
    assert run.hash == whole_run.hash
    assert run.records() == whole_run.records()
    assert [run.receipt(epoch)["report_hash"] for epoch in (1, 2)] == [
        whole_run.receipt(epoch)["report_hash"] for epoch in (1, 2)
    ]
    assert timeless(run.summary) == timeless(whole_run.summary)
    assert run.summary["run"]["placement"] != whole_run.summary["run"]["placement"]
    assert (run.path / "metrics.csv").is_file() and not (run.path / "tensorboard").exists()
    assert (whole_run.path / "tensorboard").is_dir() and not (whole_run.path / "metrics.csv").exists()


def test_without_a_chain_the_adapter_is_the_same(whole_run: Run, chainless_run: Run) -> None:
    run = chainless_run
    assert run.hash == whole_run.hash
    assert [epoch["adapter_hash"] for epoch in run.summary["epochs"]] == [
        epoch["adapter_hash"] for epoch in whole_run.summary["epochs"]
    ]
    assert [member["earned_wei"] for member in run.summary["members"]] == [
        member["earned_wei"] for member in whole_run.summary["members"]
    ]
