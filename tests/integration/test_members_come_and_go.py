"""Two owners join a running task and two members leave it, on a real chain; everybody sees it alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from tests.runs import Head, Run, tiny

pytestmark = [pytest.mark.ray, pytest.mark.anvil]

EPOCHS = 7


@pytest.fixture(scope="module")
def run(head: Head, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return head.run(
        tmp_path_factory.mktemp("members"),
        *tiny(
            tiny_model_dir, f"alliance.num_epochs={EPOCHS}", "alliance.max_unsettled=1", "alliance.candidates=2",
            "alliance.joins=[{epoch:1,silos:[9]},{epoch:2,silos:[8]}]",
            "alliance.leaves=[{epoch:1,silos:[0]},{epoch:3,silos:[1]}]",
            "cluster.nodes=2", "chain=anvil", "training.steps=2", "adversary=none",
        ),
    )  # fmt: skip


def records(run: Run) -> list[dict[str, Any]]:
    return [json.loads(run.records()[f"{epoch}.json"]) for epoch in range(1, EPOCHS + 1)]


def seated(record: dict[str, Any]) -> set[int]:
    return {*record["voters"], *record["proposers"]}


def test_changes_count_when_the_contract_says(run: Run) -> None:
    changes = {4: [[0, 1, 4, True], [8, 1, 4, False]], 5: [[9, 1, 5, False]], 6: [[1, 1, 6, True]]}
    assert {record["epoch"]: record["changes"] for record in records(run) if record["changes"]} == changes
    came = [(event["epoch"], event["member"]) for event in run.events("member_joined")]
    went = [(event["epoch"], event["member"]) for event in run.events("member_left")]
    assert (came, went) == ([(4, 8), (5, 9)], [(4, 0), (6, 1)])


def test_only_who_is_in_the_task_has_a_seat(run: Run) -> None:
    for record in records(run):
        inside = set(range(8))
        for member, _, _, leaves in (change for one in records(run)[: record["epoch"]] for change in one["changes"]):
            inside = inside - {member} if leaves else inside | {member}
        assert seated(record) <= inside and len(seated(record)) == 8  # all of them, or all but one
    assert {8, 9} <= seated(records(run)[-1])


def test_the_numbers_of_members_are_not_those_of_their_silos(run: Run) -> None:
    """The owner of silo 9 joins first, so that it is member 8."""
    rows = {row["address"]: row["silo"] for row in run.summary["members"]}
    joined = {event["member"]: rows[event["account"]] for event in run.events("member_joined")}
    assert joined == {8: "encodings", 9: "importlib"} and len(rows) == 10
    trained = {(event["epoch"], event["member"]) for event in run.events("trained")}
    assert {(record["epoch"], member) for record in records(run) for member in record["proposers"]} == trained


def test_a_stranger_can_verify_it(run: Run) -> None:
    told: list[str] = []
    verify_run(RunFolder(run.path, ""), "", "", told.append)
    assert sum(line.startswith("epoch ") for line in told) == EPOCHS
