"""What is shown of a contest, as plain values that the layers above fill in; amounts in wei, scores as in its terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flock_ray.store.files import plain
from flock_ray.telemetry import text
from flock_ray.telemetry.table import Console


@dataclass(frozen=True)
class SubmissionView:
    """What became of one submission.

    Attributes:
        rank: in the order of pay, from 1; None for who has none.
        final_rank: on set B.
        payload: hash of the adapter; None where it was not revealed.
        rung: the last one that scored it.
        score: its joint score there, the smaller the better; micro-nats a token, or micro-bits a byte.
        state, reason: its last state, and why; empty where all is well.
    """

    member: int
    account: str
    adversary: str
    rank: int | None
    final_rank: int | None
    payload: str | None
    copy_of: str | None
    rung: str
    score: int | None
    final_score: int | None
    state: str
    reason: str
    reward: int
    slashed: int


@dataclass(frozen=True)
class ValidatorView:
    """One validator's day: its work and mean distance from the joint scores, and whether an audit found it off."""

    member: int
    account: str
    adversary: str
    work: int
    distance: int
    failed: bool
    reward: int
    slashed: int


@dataclass(frozen=True)
class DayView:
    """One day.

    Attributes:
        leader: hash of the adapter that leads.
        rungs: (name, contenders, rows, eliminated) of each that was run.
        settlement_tx: None until the day is settled.
    """

    day: int
    leader: str
    submissions: tuple[SubmissionView, ...]
    validators: tuple[ValidatorView, ...]
    rungs: tuple[tuple[str, int, int, int], ...]
    settlement_tx: str | None
    gas_used: int | None
    wall_seconds: Mapping[str, float]


@dataclass(frozen=True)
class ContestTotal:
    """One member over the whole contest."""

    member: int
    account: str
    role: str
    adversary: str
    earned: int
    slashed: int
    stake: int
    balance_start: int
    balance_end: int


def show_day(console: Console, view: DayView, num_days: int) -> None:
    """The tables of a day: submissions in the order of their ranks, then validators."""
    console.close()
    rungs = "  ".join(f"{name}: {contenders} x {rows} rows" for name, contenders, rows, _ in view.rungs)
    ranked = sorted(view.submissions, key=lambda one: (one.rank is None, one.rank or 0, one.score or 0, one.member))
    last = any(one.final_rank for one in view.submissions)
    rows = [
        [
            str(one.rank or "-"),
            *([str(one.final_rank or "-")] if last else []),
            f"node {one.member}{_adversary(one.adversary)}",
            "-" if one.score is None else f"{one.score / 1e6:.4f}",
            one.rung or "-",
            f"{one.state}: {one.reason}" if one.reason else one.state,
            text.tokens(one.reward),
            text.tokens(one.slashed),
        ]
        for one in ranked
    ]
    columns = ["rank", *(["set B"] if last else []), "node", "score", "rung", "state", "reward", "slashed"]
    if rows:
        console.rows(f"day {view.day} of {num_days}: {rungs or 'nothing was scored'}", columns, rows)
    else:
        console.line(f"day {view.day} of {num_days}: nobody submitted")
    judged = [
        [
            f"validator {one.member}{_adversary(one.adversary)}",
            str(one.work),
            f"{one.distance / 1e6:.4f}",
            "failed" if one.failed else "held",
            text.tokens(one.reward),
            text.tokens(one.slashed),
        ]
        for one in view.validators
    ]
    if judged:
        columns = ["validator", "losses", "distance", "audit", "reward", "slashed"]
        console.rows(f"validators of day {view.day}", columns, judged)
    split = ", ".join(f"{phase} {text.seconds(seconds)}" for phase, seconds in view.wall_seconds.items() if seconds)
    console.line(f"time: {split or 'not measured'}")


def show_totals(console: Console, totals: Sequence[ContestTotal]) -> None:
    """The table of members at the end, amounts in tokens."""
    rows = [
        [
            f"{one.role} {one.member}{_adversary(one.adversary)}",
            text.tokens(one.earned),
            text.tokens(one.slashed),
            text.tokens(one.stake),
            text.tokens(one.balance_end - one.balance_start, signed=True),
        ]
        for one in totals
    ]
    console.rows("members", ["member", "earned", "slashed", "stake", "change"], rows)


def _adversary(behaviour: str) -> str:
    return f" ({behaviour})" if behaviour else ""


def build_contest_summary(
    *,
    run_id: str,
    task_id: str,
    model: str,
    days: Sequence[DayView],
    members: Sequence[ContestTotal],
    final_adapter_hash: str,
    chain: Mapping[str, object],
    facts: Mapping[str, object],
) -> dict[str, Any]:
    """summary.json of a contest; amounts integer wei.

    Args:
        run_id: name of the run.
        task_id: of the contest's task on the chain, 0x-hex.
        model: name of the base model.
        days: every settled day, in order.
        members: every member, validators first.
        final_adapter_hash: sha256 of adapter/adapter_model.safetensors, the leader's.
        chain: as of an alliance's summary.
        facts: anything else worth telling of the run, kept under `run`.
    """
    summary = {
        "kind": "contest",
        "run_id": run_id,
        "task_id": task_id,
        "model": model,
        "days": [_day(view) for view in days],
        "members": [asdict(member) for member in members],
        "final_adapter_hash": final_adapter_hash,
        "chain": chain,
        "run": facts,
    }
    result: dict[str, Any] = plain(summary)
    return result


def _day(view: DayView) -> dict[str, object]:
    names = ("name", "contenders", "rows", "eliminated")
    return asdict(view) | {"rungs": [dict(zip(names, rung, strict=True)) for rung in view.rungs]}
