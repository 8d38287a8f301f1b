"""What people read of a run: `summary.json` and the adapter folder, compared with the replayed run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from flock_ray.errors import VerificationError
from flock_ray.lora.serialization import LORA_A, MAX_ADAPTER_BYTES, rank_of
from flock_ray.protocol.encoding import parse_json, to_hex
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.state import TaskState
from flock_ray.verify.chain import SettledEpoch
from flock_ray.verify.compare import require, require_equal
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.genesis import TaskGenesis

_PREFIX = "base_model.model."
_FREE = {"base_model_name_or_path", "peft_version", "revision", "target_modules", "megatron_core"}
_SET = {"inference_mode": True, "peft_type": "LORA", "task_type": "CAUSAL_LM"}
_DEFAULT = {"init_lora_weights": True}
_MAX_SILOS = 1 << 20
_UNUSED = {"qalora_group_size"}
"""Fields of `adapter_config.json`: free text, fixed values, values that it need not state, and options of variants that
are off."""


def check_adapter(folder: RunFolder, genesis: TaskGenesis, final: TaskState) -> None:
    """The adapter folder holds the final global adapter's bytes, under a configuration that adds nothing to them.

    Raises:
        VerificationError: it does not.
    """
    agreed = genesis.configuration
    try:
        rank, alpha = int(agreed["lora.rank"]), int(agreed["lora.alpha"])
    except (KeyError, ValueError):
        raise VerificationError("the configuration that the members agreed on states no lora.rank or alpha") from None
    check_adapter_folder(folder, final.adapter, rank, alpha)


def check_leader(folder: RunFolder, final: TaskState) -> None:
    """As `check_adapter`, of a contest, whose leader has a rank of its own and the scaling 1."""
    data = folder.read("adapter/adapter_model.safetensors", MAX_ADAPTER_BYTES)
    require_equal(to_hex(sha256(data)), to_hex(final.adapter), "SHA-256 of adapter/adapter_model.safetensors")
    try:
        rank = rank_of(data)
    except ValueError:
        raise VerificationError("adapter/adapter_model.safetensors does not read as an adapter") from None
    check_adapter_folder(folder, final.adapter, rank, rank)


def check_adapter_folder(folder: RunFolder, adapter: bytes, rank: int, alpha: int) -> None:
    """The adapter folder holds the bytes of this hash, under a configuration of this rank that adds nothing to them.

    Raises:
        VerificationError: it does not.
    """
    data = folder.read("adapter/adapter_model.safetensors", MAX_ADAPTER_BYTES)
    require_equal(to_hex(sha256(data)), to_hex(adapter), "SHA-256 of adapter/adapter_model.safetensors")
    config = folder.json("adapter/adapter_config.json")
    expected = _SET | {"r": rank, "lora_alpha": alpha}
    require_equal(_DEFAULT | config, expected | _DEFAULT, "adapter/adapter_config.json")
    for name, value in config.items():
        known = name in expected | _DEFAULT or name in _FREE | _UNUSED
        require(
            known or not value or value == "none", f"adapter/adapter_config.json.{name} is {value!r}, found nothing"
        )
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")].decode(), 4)
    layers = [f".{key.removeprefix(_PREFIX).removesuffix(LORA_A)}" for key in header if key.endswith(LORA_A)]
    targets = config.get("target_modules")
    named = isinstance(targets, list) and all(isinstance(target, str) for target in targets)
    require(named, "adapter/adapter_config.json.target_modules is no list of names")
    assert isinstance(targets, list)
    for layer in layers:
        fits = any(layer.endswith(f".{target}") for target in targets)
        require(fits, f"adapter/adapter_config.json.target_modules lacks the layer {layer[1:]}")
    for target in targets:
        fits = any(layer.endswith(f".{target}") for layer in layers)
        require(fits, f"adapter/adapter_config.json.target_modules names {target!r}, and the adapter has no such layer")


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
        epochs: the settled epochs.
        abandoned: the states after the abandoned epochs.
        final: the state after the last epoch.

    Raises:
        VerificationError: a figure differs.
    """
    silos = {account: silo for silo, account in enumerate(genesis.balances)}
    here = [number for number, member in enumerate(final.members) if member.account in silos]
    cheating = _adversaries(genesis.config)
    adversaries = {number for number in here if silos[final.members[number].account] in cheating}
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
    expected = {
        "task_id": to_hex(genesis.state.scope.task),
        "num_members": len(here),
        "epochs": [_epoch(epoch) for epoch in epochs],
        "members": [_member(number, genesis, epochs, final) for number in here],
        "num_honest_members": len(here) - len(adversaries),
        "final_adapter_hash": to_hex(final.adapter),
        "chain": {"chain_id": genesis.domain.chain_id},
        "run": {
            "seed": genesis.config["seed"],
            "mechanism": genesis.state.terms.mechanism,
            "model_hash": to_hex(genesis.state.terms.base_model),
            "abandoned_epochs": [state.epoch - 1 for state in abandoned],
        },
    }
    require_equal(summary, expected, "summary.json")
    chain, members = summary["chain"], summary["members"]
    claimed = {name: str(text).lower() for name, text in _object(chain.get("contracts")).items()}
    require_equal(
        claimed, {name: to_hex(address) for name, address in contracts.items()}, "summary.json.chain.contracts"
    )
    require(len(claimed) == len(contracts), "summary.json.chain.contracts names more contracts")
    with_more = 0
    for number, member in zip(here, members, strict=True):
        require_equal(member.get("adversary"), number in adversaries, f"summary.json.members[{number}].adversary")
        start, end = member.get("balance_start_wei"), member.get("balance_end_wei")
        require(isinstance(start, int) and isinstance(end, int), f"summary.json.members[{number}] has no balance")
        with_more += number not in adversaries and end > start
    require_equal(summary.get("num_honest_members_with_more"), with_more, "summary.json.num_honest_members_with_more")


def _epoch(epoch: SettledEpoch) -> dict[str, Any]:
    replay, consensus = epoch.replay, epoch.replay.candidate.consensus
    return {
        "epoch": epoch.report.epoch,
        "accepted": replay.accepted,
        "candidate_score": consensus.score if consensus else None,
        "band": consensus.band if consensus else None,
        "step": replay.candidate.step,
        "voiceless": sorted(replay.electorate.voiceless),
        "fees": [
            {"member": member, "charged_wei": charged, "withheld_wei": withheld}
            for member, charged, withheld in replay.fees.rows
        ],
        "settlement_tx": epoch.transaction,
        "gas_used": epoch.gas_used,
        "adapter_hash": to_hex(replay.adapter),
        "proposals": [
            {
                "member": proposal.member,
                "score": proposal.consensus.score if proposal.consensus else None,
                "status": proposal.status,
            }
            for proposal in replay.proposals
        ],
    }


def _member(number: int, genesis: TaskGenesis, epochs: Sequence[SettledEpoch], final: TaskState) -> dict[str, Any]:
    money = final.members[number]
    scores = [
        proposal.consensus.score
        for epoch in epochs
        for proposal in epoch.replay.proposals
        if proposal.member == number and proposal.consensus
    ]
    figures: dict[str, Any] = {
        "address": money.account,
        "times_proposer": sum(number in epoch.replay.seats.proposers for epoch in epochs),
        "times_voter": sum(number in epoch.replay.seats.voters for epoch in epochs),
        "mean_score": fmean(scores) if scores else None,
        "earned_wei": money.earned,
        "slashed_wei": money.slashed,
        "stake_wei": money.stake,
        "balance_start_wei": genesis.balances[money.account],
    }
    if not genesis.on_rpc:  # elsewhere its wallet has other uses
        figures["balance_end_wei"] = genesis.balance_after(money)
    return figures


def _adversaries(config: dict[str, Any]) -> set[int]:
    """Silos whose members cheat according to the folder's own configuration; the messages cannot prove it."""
    adversary = _object(config.get("adversary"))
    named, attack, vote = adversary.get("members"), adversary.get("attack"), adversary.get("vote")
    share = adversary.get("share")
    if isinstance(share, int | float) and 0 < share <= 1:
        named = _drawn(share, config.get("seed"), _object(config.get("alliance")).get("num_members"))
    kind = f"{attack}+{vote}" if vote else attack
    kinds = named if isinstance(named, dict) else dict.fromkeys(named if isinstance(named, list) else (), kind)
    return {member for member, kind in kinds.items() if kind not in (None, "none")}


def _drawn(share: float, seed: object, silos: object) -> list[int]:
    """Silos of a coalition that the run's seed draws; none where the numbers make no sense."""
    if not isinstance(seed, int) or not isinstance(silos, int) or seed < 0 or silos > _MAX_SILOS:
        return []
    order = sorted(range(silos), key=lambda silo: tagged("flock_ray/coalition-members/1", seed, silo))
    return order[: round(share * 10_000) * silos // 10_000]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
