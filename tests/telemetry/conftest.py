from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest

from flock_ray.telemetry.summary import build_summary
from flock_ray.telemetry.views import EpochView, MemberEpoch, MemberTotal, TrainingRate

TOKEN = 10**18
SILOS = ("asyncio", "email", "unittest", "xml", "http", "json", "logging", "multiprocessing")
ADVERSARY = 3
BEFORE = (2.41, 2.88, 2.55, 3.02, 2.63, 2.77, 2.84, 2.50)
PROPOSERS = ((0, 3, 5, 6), (1, 2, 4, 7), (0, 3, 4, 7))
SCORES = {
    0: {0: 41_200, 3: -310_000, 5: 26_700, 6: 33_950},
    1: {1: 22_100, 2: 30_480, 4: 19_020, 7: 3_100},
    2: {0: 17_300, 3: -287_500, 4: 12_840, 7: 15_600},
}


def address(index: int) -> str:
    return "0x" + hashlib.sha256(f"member {index}".encode()).hexdigest()[:40]


def status(score: int, band: int) -> str:
    return "accepted" if score > band else "harmful" if score < -4 * band else "rejected"


@pytest.fixture
def epochs() -> list[EpochView]:
    rng = random.Random(7)
    losses = list(BEFORE)
    views = []
    for epoch in range(3):
        band = (5_200, 4_800, 4_500)[epoch]
        after = [loss * (0.958, 0.978, 0.986)[epoch] + rng.uniform(-0.004, 0.004) for loss in losses]
        members = []
        for index, silo in enumerate(SILOS):
            score = SCORES[epoch].get(index)
            outcome = None if score is None else status(score, band)
            reward = {"accepted": 52 * TOKEN, None: 25 * TOKEN - 1}.get(outcome, 0)
            members.append(
                MemberEpoch(
                    index=index,
                    silo=silo,
                    address=address(index),
                    adversary=index == ADVERSARY,
                    role="proposer" if index in PROPOSERS[epoch] else "voter",
                    loss_before=losses[index],
                    loss_after=after[index],
                    score=score,
                    status=outcome,
                    reward=reward,
                    slashed=300 * TOKEN if outcome == "harmful" else 0,
                )
            )
        views.append(
            EpochView(
                epoch=epoch + 1,
                members=tuple(members),
                accepted=True,
                candidate_score=(98_000, 51_000, 33_000)[epoch],
                band=band,
                factor_averaging_error=(0.71, 0.64, 0.58)[epoch],
                settlement_tx="0x" + hashlib.sha256(bytes([epoch])).hexdigest(),
                gas_used=(312_845, 265_310, 268_902)[epoch],
                adapter_hash="0x" + hashlib.sha256(bytes([epoch, 1])).hexdigest(),
                wall_seconds={
                    "load": 14.2 if epoch == 0 else 0.0,
                    "train": 78.4 + 3 * epoch,
                    "encode": 0.9,
                    "transfer": 0.3,
                    "vote": 31.6,
                    "aggregate": 1.1,
                    "settle": 0.6,
                    "evaluate": 15.8,
                    "overhead": 2.4,
                },
                training=TrainingRate(tokens_per_second=1_234.5, mfu=0.523),
                steps={
                    index: tuple(BEFORE[index] * (0.99 - 0.003 * step) * 0.97**epoch for step in range(15))
                    for index in PROPOSERS[epoch]
                },
                rates=tuple(5e-4 * min((step + 1) / 3, (15 - step) / 13) for step in range(15)),
            )
        )
        losses = after
    return views


@pytest.fixture
def members(epochs: list[EpochView]) -> list[MemberTotal]:
    totals = []
    for index, silo in enumerate(SILOS):
        mine = [view.members[index] for view in epochs]
        scores = [epoch.score for epoch in mine if epoch.score is not None]
        earned, slashed = sum(epoch.reward for epoch in mine), sum(epoch.slashed for epoch in mine)
        totals.append(
            MemberTotal(
                index=index,
                silo=silo,
                address=address(index),
                adversary=index == ADVERSARY,
                num_tokens=190_000 - 21_417 * index,
                times_proposer=sum(epoch.role == "proposer" for epoch in mine),
                times_voter=sum(epoch.role == "voter" for epoch in mine),
                mean_score=sum(scores) / len(scores) if scores else None,
                earned=earned,
                slashed=slashed,
                stake=3_000 * TOKEN - slashed,
                balance_start=3_100 * TOKEN,
                balance_end=3_100 * TOKEN + earned - slashed,
                rows={"read": 60 + index, "bad": 1, "dropped": 2, "cut": 3, "rewritten": 4, "target_tokens": 12_345},
            )
        )
    return totals


@pytest.fixture
def summary(epochs: list[EpochView], members: list[MemberTotal]) -> dict[str, Any]:
    return build_summary(
        run_id="2026-01-31/12-00-00",
        task_id="0x" + "ab" * 32,
        model="SmolLM2-135M-Instruct",
        epochs=epochs,
        members=members,
        final_adapter_hash=epochs[-1].adapter_hash,
        chain={
            "backend": "anvil",
            "chain_id": 31337,
            "contracts": {name: address(20 + i) for i, name in enumerate(("token", "task", "settlement"))},
        },
        facts={"seed": 1, "mechanism": "marginal1", "versions": {"torch": "2.13.0"}},
    )
