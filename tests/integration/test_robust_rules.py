"""Runs under a robust rule and with a frozen A, from start to end, and verified from their folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from flock_ray.lora.serialization import LORA_A, MAX_ADAPTER_BYTES
from flock_ray.protocol.encoding import from_hex
from flock_ray.store.blob_store import BlobStore
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from tests.runs import Head, Run, tiny

pytestmark = pytest.mark.ray

LARGER = ("alliance.num_members=10", "alliance.num_proposers=5", "alliance.assumed_malicious=0.1", "mechanism=open")
CHEAT = 3


def verified(run: Run) -> str:
    lines: list[str] = []
    verify_run(RunFolder(run.path), "", "", lines.append)
    return "\n".join(lines)


def weights(run: Run) -> list[dict[int, int]]:
    return [dict(json.loads(record)["candidate"]["weights"]) for record in run.records().values()]


def test_multi_krum_leaves_the_flipped_update_out_and_does_not_pay_for_it(
    head: Head, tiny_model_dir: Path, tmp_path: Path
) -> None:
    rule = ("aggregation=multi_krum", "adversary.scale=20", "alliance.num_epochs=3")
    run = head.run(tmp_path, *tiny(tiny_model_dir, *LARGER, *rule))
    assert [epoch["accepted"] for epoch in run.summary["epochs"]] == [True] * 3
    attacked = [epoch for epoch in weights(run) if CHEAT in epoch]
    assert attacked and all(epoch[CHEAT] == 0 for epoch in attacked)
    assert all(sum(epoch.values()) == 4 for epoch in weights(run))
    assert run.summary["members"][CHEAT]["earned_wei"] == 0 or run.summary["members"][CHEAT]["times_voter"]
    assert "adapter    adapter/ holds" in verified(run)


def test_with_a_frozen_only_b_moves_and_averages_are_exact(head: Head, tiny_model_dir: Path, tmp_path: Path) -> None:
    ffa = ("lora=ffa", "aggregation=trimmed_mean", "mechanism=marginal1", "chain=none")
    run = head.run(tmp_path, *tiny(tiny_model_dir, *LARGER, *ffa))
    terms = json.loads((run.path / "task.json").read_text())["terms"]
    assert terms["wire_format_parameters"]["freeze_a"] == 1
    store = BlobStore(str(run.path / "store"))
    before = load(store.get(from_hex(terms["start_adapter"]), MAX_ADAPTER_BYTES))
    after = load((run.path / "adapter" / "adapter_model.safetensors").read_bytes())
    assert any(epoch["accepted"] for epoch in run.summary["epochs"])
    assert all(torch.equal(after[key], before[key]) == key.endswith(LORA_A) for key in before)
    errors = [epoch["factor_averaging_error"] for epoch in run.summary["epochs"]]
    assert set(errors) <= {0.0, None} and 0.0 in errors
    assert "adapter    adapter/ holds" in verified(run)
