"""The default experiment on the packaged model, cut to one epoch: what a stranger sees first."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from statistics import fmean

import pytest

from tests.runs import ALLIANCE, command_running, read_summary
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.ray, pytest.mark.model]


def test_one_epoch_of_the_default_experiment(tmp_path: Path) -> None:
    overrides = ["alliance.num_epochs=1", "chain=eth_tester", *shlex.split(os.environ.get("FLOCK_RAY_TEST_ARGS", ""))]
    log = tmp_path / "output"
    with command_running([*ALLIANCE, f"output_dir={tmp_path}", *overrides], tmp_path, OMP_NUM_THREADS="2") as process:
        assert process.wait(PATIENCE) == 0, log.read_text()[-4000:]

    run = read_summary((tmp_path / "latest").resolve())
    summary = run.summary
    assert {
        "run_id", "task_id", "model", "num_members", "epochs", "members", "final_adapter_hash", "chain"
    } <= summary.keys()  # fmt: skip
    assert {"backend", "chain_id", "contracts"} <= summary["chain"].keys()
    (epoch,) = summary["epochs"]
    assert {
        "epoch", "accepted", "eval_loss_before", "eval_loss_after", "settlement_tx", "gas_used", "wall_seconds"
    } <= epoch.keys()  # fmt: skip
    assert len(summary["members"]) == summary["num_members"] == 8
    for member in summary["members"]:
        assert {"address", "silo", "adversary", "earned_wei", "slashed_wei", "stake_wei"} <= member.keys()
    honest = {member["silo"] for member in summary["members"] if not member["adversary"]}
    assert epoch["accepted"]
    assert epoch["eval_loss_before"].keys() == epoch["eval_loss_after"].keys() == honest
    assert fmean(epoch["eval_loss_after"].values()) < fmean(epoch["eval_loss_before"].values())
    assert epoch["settlement_tx"].startswith("0x") and epoch["gas_used"] > 0
    for name in ("config.yaml", "events.jsonl", "records/1.json", "receipts/1.json", "chain/blocks.jsonl",
                 "adapter/adapter_config.json", "report.html"):  # fmt: skip
        assert (run.path / name).is_file()
    said = log.read_text()
    assert "epoch 1 of 1: accepted" in said and "honest members end with more" in said
    assert said.count(f"Run folder: {run.path}") == 2
