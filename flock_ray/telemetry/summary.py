"""summary.json: what a run came to, for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flock_ray.store.files import plain
from flock_ray.telemetry.views import Answer, EpochView, MemberEpoch, MemberTotal, honest_with_more


def silo_labels(members: Sequence[MemberEpoch | MemberTotal]) -> dict[int, str]:
    """A name for each member by index: its silo's, with the index where two silos bear the same."""
    seen = Counter(member.silo for member in members)
    return {m.index: m.silo if seen[m.silo] == 1 else f"{m.silo} #{m.index}" for m in members}


def build_summary(
    *,
    run_id: str,
    task_id: str,
    model: str,
    epochs: Sequence[EpochView],
    members: Sequence[MemberTotal],
    final_adapter_hash: str,
    chain: Mapping[str, object],
    facts: Mapping[str, object],
    answers: Sequence[Answer] = (),
) -> dict[str, Any]:
    """The summary of a run; evaluation losses are of the honest members' silos, amounts integer wei.

    Args:
        run_id: name of the run.
        task_id: of the task on the chain, 0x-hex.
        model: name of the base model.
        epochs: every epoch of the run, in order.
        members: every member, in registration order.
        final_adapter_hash: sha256 of adapter/adapter_model.safetensors.
        chain: `backend`, `chain_id` and `contracts` (name -> address), and more if there is more to say.
        facts: anything else worth telling of the run (seed, mechanism, package versions ...), kept under `run`.
        answers: to public prompts, before and after the run.
    """
    with_more, num_honest = honest_with_more(members)
    summary = {
        "run_id": run_id,
        "task_id": task_id,
        "model": model,
        "num_members": len(members),
        "epochs": [_epoch(view) for view in epochs],
        "members": [_member(member) for member in members],
        "num_honest_members": num_honest,
        "num_honest_members_with_more": with_more,
        "final_adapter_hash": final_adapter_hash,
        "chain": chain,
        "run": facts,
        "answers": answers,
    }
    result: dict[str, Any] = plain(summary)
    return result


def _epoch(view: EpochView) -> dict[str, object]:
    labels = silo_labels(view.members)
    honest = [member for member in view.members if not member.adversary]
    return {
        "epoch": view.epoch,
        "accepted": view.accepted,
        "eval_loss_before": {labels[m.index]: m.loss_before for m in honest if m.loss_before is not None},
        "eval_loss_after": {labels[m.index]: m.loss_after for m in honest if m.loss_after is not None},
        "eval_bits_per_byte_after": {labels[m.index]: m.bits_per_byte for m in honest if m.bits_per_byte is not None},
        "candidate_score": view.candidate_score,
        "band": view.band,
        "step": view.step,
        "voiceless": view.voiceless,
        "fees": [
            {"member": member, "charged_wei": charged, "withheld_wei": withheld}
            for member, charged, withheld in view.fees
        ],
        "factor_averaging_error": view.factor_averaging_error,
        "training": asdict(view.training) if view.training else None,
        "settlement_tx": view.settlement_tx,
        "gas_used": view.gas_used,
        "adapter_hash": view.adapter_hash,
        "wall_seconds": view.wall_seconds,
        "proposals": [
            {"member": m.index, "silo": labels[m.index], "score": m.score, "status": m.status}
            for m in view.members
            if m.status is not None
        ],
    }


def _member(member: MemberTotal) -> dict[str, object]:
    return {
        "address": member.address,
        "silo": member.silo,
        "adversary": member.adversary,
        "num_tokens": member.num_tokens,
        "rows": dict(member.rows),
        "times_proposer": member.times_proposer,
        "times_voter": member.times_voter,
        "mean_score": member.mean_score,
        "earned_wei": member.earned,
        "slashed_wei": member.slashed,
        "stake_wei": member.stake,
        "balance_start_wei": member.balance_start,
        "balance_end_wei": member.balance_end,
    }
