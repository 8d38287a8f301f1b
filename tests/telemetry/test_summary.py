from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.errors import RunDirectoryError
from flock_ray.store.files import write_json
from flock_ray.telemetry.events import EventLog
from flock_ray.telemetry.summary import silo_labels
from flock_ray.telemetry.views import EpochView, MemberTotal, honest_with_more


def test_the_summary_has_the_promised_keys(summary: dict[str, Any]) -> None:
    assert {"run_id", "task_id", "model", "num_members", "epochs", "members", "final_adapter_hash", "chain"} <= set(
        summary
    )
    assert {
        "epoch", "accepted", "eval_loss_before", "eval_loss_after", "settlement_tx", "gas_used", "wall_seconds",
    } <= set(summary["epochs"][0])  # fmt: skip
    assert {"address", "silo", "adversary", "earned_wei", "slashed_wei", "stake_wei"} <= set(summary["members"][0])
    assert {"backend", "chain_id", "contracts"} <= set(summary["chain"])


def test_losses_are_of_honest_silos_only_and_amounts_are_exact(
    summary: dict[str, Any], epochs: list[EpochView], members: list[MemberTotal]
) -> None:
    assert set(summary["epochs"][0]["eval_loss_before"]) == {m.silo for m in members if not m.adversary}
    assert summary["epochs"][2]["eval_loss_after"]["json"] == epochs[2].members[5].loss_after
    assert [member["earned_wei"] for member in summary["members"]] == [member.earned for member in members]
    assert summary["members"][0]["earned_wei"] % 10 == 9, "no rounding through floats"


def test_the_mean_loss_leaves_the_adversary_out(epochs: list[EpochView]) -> None:
    honest = [member.loss_before for member in epochs[0].members if not member.adversary]
    assert epochs[0].honest_loss_before == pytest.approx(sum(filter(None, honest)) / 7)
    unmeasured = replace(epochs[0], members=tuple(replace(m, loss_after=None) for m in epochs[0].members))
    assert unmeasured.honest_loss_after is None


def test_members_that_end_with_more_are_counted_among_the_honest(members: list[MemberTotal]) -> None:
    assert honest_with_more(members) == (7, 7)
    even = [replace(members[0], balance_end=members[0].balance_start), *members[1:]]
    assert honest_with_more(even) == (6, 7)


def test_silos_of_one_name_are_told_apart(members: list[MemberTotal]) -> None:
    twins = [replace(members[0], silo="same"), replace(members[1], silo="same"), members[2]]
    assert silo_labels(twins) == {0: "same #0", 1: "same #1", 2: "unittest"}


def test_a_json_file_is_replaced_whole_or_not_at_all(tmp_path: Path, summary: dict[str, Any]) -> None:
    path = tmp_path / "summary.json"
    write_json(path, summary)
    assert json.loads(path.read_text()) == summary
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()})
    assert json.loads(path.read_text()) == summary
    assert [item.name for item in tmp_path.iterdir()] == ["summary.json"]


def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"summary\.json cannot be written: no such file or directory"):
        write_json(tmp_path / "gone" / "summary.json", {})
    with (
        pytest.raises(RunDirectoryError, match=r"full cannot be written: no space left on device"),
        EventLog("/dev/full") as log,
    ):
        log.emit("event")
