"""A member whose stake was slashed below half of what its slots cost loses them, and everybody sees it alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from tests.runs import Head, tiny

pytestmark = pytest.mark.ray

CHEAT = 3


def test_a_cheat_that_lost_its_stake_has_no_seat_from_the_next_unknown_seed_on(
    head: Head, tiny_model_dir: Path, tmp_path: Path
) -> None:
    run = head.run(
        tmp_path,
        *tiny(
            tiny_model_dir, "mechanism.slash_fraction=6000", "alliance.num_epochs=6", "alliance.max_unsettled=1",
            "chain.claim_every=2", "training.steps=2",
        ),
    )  # fmt: skip
    records = [json.loads(run.records()[f"{epoch}.json"]) for epoch in range(1, 7)]
    first = next(record for record in records if record["removed"])
    assert first["removed"] == [[CHEAT, first["epoch"] + 4]] and [slash["member"] for slash in first["slashes"]] == [3]
    assert not any(record["removed"] for record in records if record is not first)
    for record in records:
        seated = CHEAT in (*record["voters"], *record["proposers"])
        assert seated <= (record["epoch"] < first["epoch"] + 4)
    assert len(records[-1]["voters"]) + len(records[-1]["proposers"]) == 7  # one slot is gone
    assert records[-1]["escrow"] == sum(slash["amount"] * 9 // 10 for one in records for slash in one["slashes"])
    assert [event["member"] for event in run.events("member_removed")] == [CHEAT]

    told: list[str] = []
    verify_run(RunFolder(run.path, ""), "", "", told.append)
    assert sum(line.startswith("epoch ") for line in told) == 6
