"""What people read of a run: `summary.json` and the adapter folder, against what was found."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from flock_ray.errors import VerificationError
from flock_ray.lora.serialization import LORA_A, MAX_ADAPTER_BYTES
from flock_ray.protocol.encoding import parse_json, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.state import TaskState
from flock_ray.verify.chain import SettledEpoch
from flock_ray.verify.compare import hold, require
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.genesis import TaskGenesis

_PREFIX = "base_model.model."
_FREE = {"base_model_name_or_path", "peft_version", "revision", "target_modules", "megatron_core"}
_SET = {"inference_mode": True, "init_lora_weights": True, "peft_type": "LORA", "task_type": "CAUSAL_LM"}
_UNUSED = {"qalora_group_size"}
"""Fields of `adapter_config.json`: free text, fixed values, and options of variants that are off."""


def check_adapter(folder: RunFolder, genesis: TaskGenesis, final: TaskState) -> None:
    """The adapter folder holds the final global adapter's bytes, under a configuration that adds nothing to them.

    Raises:
        VerificationError: it does not.
    """
    data = folder.read("adapter/adapter_model.safetensors", MAX_ADAPTER_BYTES)
    hold(to_hex(sha256(data)), to_hex(final.adapter), "SHA-256 of adapter/adapter_model.safetensors")
    config = folder.json("adapter/adapter_config.json")
    agreed = genesis.configuration
    try:
        expected = _SET | {"r": int(agreed["lora.rank"]), "lora_alpha": int(agreed["lora.alpha"])}
    except (KeyError, ValueError):
        raise VerificationError("the configuration that the members agreed on states no lora.rank or alpha") from None
    hold(config, expected, "adapter/adapter_config.json")
    for name, value in config.items():
        known = name in expected or name in _FREE or name in _UNUSED
        require(
            known or not value or value == "none", f"adapter/adapter_config.json.{name} is {value!r}, found nothing"
        )
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")].decode(), 4)
    layers = sorted(key.removeprefix(_PREFIX).removesuffix(LORA_A) for key in header if key.endswith(LORA_A))
    hold(sorted(config.get("target_modules") or ()), layers, "adapter/adapter_config.json.target_modules")


def check_summary(
    summary: dict[str, Any],
    genesis: TaskGenesis,
    epochs: Sequence[SettledEpoch],
    abandoned: Sequence[TaskState],
    final: TaskState,
) -> None:
    """Every figure of the summary that follows from records and chain; losses, times and names do not.

    Args:
        summary: as the folder has it.
        genesis: of the task.
        epochs: those that were settled.
        abandoned: the states after the abandoned ones.
        final: the state after the last one.

    Raises:
        VerificationError: a figure differs.
    """
    adversaries = _adversaries(genesis.config)
    contracts = {}
    if genesis.token is not None and genesis.task is not None and genesis.vault is not None:
        domain = genesis.domain
        contracts = {
            "token": genesis.token,
            "task": genesis.task,
            "settlement": domain.settlement,
            "distributor": domain.distributor,
            "vault": genesis.vault,
        }
    found = {
        "task_id": to_hex(genesis.state.scope.task),
        "num_members": len(final.members),
        "epochs": [_epoch(one) for one in epochs],
        "members": [_member(number, genesis, epochs, final) for number in range(len(final.members))],
        "num_honest_members": len(final.members) - len(adversaries),
        "final_adapter_hash": to_hex(final.adapter),
        "chain": {"chain_id": genesis.domain.chain_id},
        "run": {
            "seed": genesis.config["seed"],
            "mechanism": genesis.state.terms.mechanism,
            "model_hash": to_hex(genesis.state.terms.base_model),
            "abandoned_epochs": [state.epoch - 1 for state in abandoned],
        },
    }
    hold(summary, found, "summary.json")
    chain, members = summary["chain"], summary["members"]
    claimed = {name: str(text).lower() for name, text in _object(chain.get("contracts")).items()}
    hold(claimed, {name: to_hex(address) for name, address in contracts.items()}, "summary.json.chain.contracts")
    require(len(claimed) == len(contracts), "summary.json.chain.contracts names more contracts")
    with_more = 0
    for number, member in enumerate(members):
        hold(member.get("adversary"), number in adversaries, f"summary.json.members[{number}].adversary")
        start, end = member.get("balance_start_wei"), member.get("balance_end_wei")
        require(isinstance(start, int) and isinstance(end, int), f"summary.json.members[{number}] has no balance")
        with_more += number not in adversaries and end > start
    hold(summary.get("num_honest_members_with_more"), with_more, "summary.json.num_honest_members_with_more")


def _epoch(epoch: SettledEpoch) -> dict[str, Any]:
    replay, found = epoch.replay, epoch.replay.candidate.consensus
    return {
        "epoch": epoch.report.epoch,
        "accepted": replay.accepted,
        "candidate_score": found.score if found else None,
        "band": found.band if found else None,
        "settlement_tx": epoch.transaction,
        "gas_used": epoch.gas_used,
        "adapter_hash": to_hex(replay.adapter),
        "proposals": [
            {"member": one.member, "score": one.consensus.score if one.consensus else None, "status": one.status}
            for one in replay.proposals
        ],
    }


def _member(number: int, genesis: TaskGenesis, epochs: Sequence[SettledEpoch], final: TaskState) -> dict[str, Any]:
    money = final.members[number]
    scores = [
        one.consensus.score
        for epoch in epochs
        for one in epoch.replay.proposals
        if one.member == number and one.consensus
    ]
    figures: dict[str, Any] = {
        "address": money.account,
        "times_proposer": sum(number in epoch.replay.seats.proposers for epoch in epochs),
        "times_voter": sum(number in epoch.replay.seats.voters for epoch in epochs),
        "mean_score": fmean(scores) if scores else None,
        "earned_wei": money.earned,
        "slashed_wei": money.slashed,
        "stake_wei": money.stake,
        "balance_start_wei": genesis.balances[number],
    }
    if not genesis.on_rpc:  # elsewhere its wallet has other uses
        figures["balance_end_wei"] = genesis.balance_after(number, money)
    return figures


def _adversaries(config: dict[str, Any]) -> set[int]:
    """Members that the folder's own configuration says cheat; nobody else can know."""
    adversary = _object(config.get("adversary"))
    named = adversary.get("members")
    return set(named) if adversary.get("attack") not in (None, "none") and isinstance(named, list) else set()


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
