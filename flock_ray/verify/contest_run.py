"""Verifies the run of a contest: every day derived a second time, from genesis to the last figure of its summary."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from flock_ray.chain.keys import recover
from flock_ray.errors import RunDirectoryError, VerificationError
from flock_ray.protocol.contest_state import ContestState, read_rows
from flock_ray.protocol.encoding import from_hex, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.message import MAX_BYTES, SignedMessage
from flock_ray.verify.chain import SettledDay
from flock_ray.verify.compare import require, require_equal
from flock_ray.verify.contest import DayReplay, check_day, skipped_day
from flock_ray.verify.contest_genesis import ContestGenesis, read_contest_genesis
from flock_ray.verify.draw import seats_of
from flock_ray.verify.folder import MAX_JSON, RunFolder
from flock_ray.verify.membership import changed, due_removals, slots_of
from flock_ray.verify.on_chain import check_settled, is_abandoned, open_chain
from flock_ray.verify.report import Report
from flock_ray.verify.summary import check_leader
from flock_ray.verify.verified import VerifiedRun

Emit = Callable[[str], None]

NOT_PROVABLE = (
    "Not provable from outside: that rows are good questions, how training nodes trained, wall times, who the"
    " adversaries are, events.jsonl, members/. What a loss should be can be measured: --rescore does."
)


def verify_contest(folder: RunFolder, anchor: str, rpc: str, emit: Emit) -> VerifiedRun:
    """Replay a contest and check everything that its folder claims.

    Args:
        folder: of the run.
        anchor: hex SHA-256 of the genesis, known to the verifier from another source; empty for none.
        rpc: url of a node that the verifier trusts, for a run on an external chain; empty for none.
        emit: called with a line of text for each group of checks that passed.

    Returns:
        What it says.

    Raises:
        VerificationError: the first claim that fails.
        RunDirectoryError: the run is unfinished or pruned.
    """
    genesis = read_contest_genesis(folder)
    state, terms = genesis.state, genesis.state.terms
    if anchor:
        require_equal(anchor.lower().removeprefix("0x"), genesis.anchor.hex(), "anchor of the run")
    nodes = len(state.members) - genesis.num_validators
    emit(
        f"genesis   terms, task id, seed, configuration: {genesis.num_validators} validators, {nodes} training nodes,"
        f" {terms.num_epochs} days"
    )
    emit(f"anchor     0x{genesis.anchor.hex()} {'is the one given' if anchor else '(compared with nothing)'}")
    if not folder.has("summary.json"):
        raise RunDirectoryError(f"{folder.path} holds an unfinished run: summary.json is missing")
    check = open_chain(folder, genesis, rpc, emit) if genesis.has_chain else None
    days: list[SettledDay] = []
    abandoned: list[ContestState] = []
    while state.epoch <= terms.num_epochs:
        changes, joined = check.changes(state) if check else (due_removals(state), [])
        entered = check.entered(state, len(state.members) + len(joined)) if check else []
        state = changed(state, changes, [*joined, *entered])
        if len(slots_of(state).slots) <= terms.num_voters:
            break
        if is_abandoned(folder, genesis, state.epoch):
            state = skipped_day(state)
            abandoned.append(state)
            emit(f"day {state.epoch - 1:<6} abandoned: nothing paid, nobody slashed, the leader stays")
            continue
        day, state = _day(folder, genesis, state, emit)
        days.append(day)
    beyond = f"records/{state.epoch}.json"
    require(not folder.has(beyond), f"{beyond} is of a day that the contest does not have")
    check_leader(folder, state)
    emit(f"leader     adapter/ holds {to_hex(state.adapter)}")
    _check_summary(folder.json("summary.json"), genesis, days, state)
    emit("summary    every figure that follows from the signed messages")
    if check:
        check_settled(check, genesis, days, abandoned, state, emit)
    else:
        emit("chain      none: the money is in the records only")
    emit(NOT_PROVABLE)
    return VerifiedRun(genesis, tuple(days), state)


def _day(
    folder: RunFolder, genesis: ContestGenesis, state: ContestState, emit: Emit
) -> tuple[SettledDay, ContestState]:
    """Check a day's rows, record, receipt and signatures; returns the day and the state after it."""
    number, what = state.epoch, f"day {state.epoch}"
    for name in (f"records/{number}.json", f"receipts/{number}.json"):
        require(folder.has(name), f"{what} of {state.terms.num_epochs}: {name} is missing, yet the run claims its end")
    receipt = folder.json(f"receipts/{number}.json")
    final = _rows(folder, "rows/final.json") if state.last_day else ()
    try:
        state = state.opened(_rows(folder, f"rows/{number}.json"), final)
    except ValueError as error:
        raise VerificationError(f"{what}: {error}") from None
    signed = _messages(folder, what, receipt)
    claimed = folder.read(f"records/{number}.json", MAX_JSON)
    replayed = check_day(state, signed, genesis.domain, claimed)
    report = replayed.report(genesis.domain, genesis.relayer)
    signers = _check_receipt(receipt, genesis, replayed, report)
    emit(
        f"day {number:<6} {len(signed)} signed messages, {len(replayed.submissions)} submissions,"
        f" {len(replayed.rungs)} rungs, {sum(replayed.rewards.values())} wei paid,"
        f" {len(replayed.accounting.slashes)} slashes, {signers} signatures"
    )
    settlement = receipt.get("settlement")
    settled = settlement if isinstance(settlement, dict) else {}
    day = SettledDay(replayed, report, settled.get("transaction"), settled.get("gas_used"))
    if not genesis.has_chain:
        require_equal([day.transaction, day.gas_used], [None, None], f"receipt of {what}: settlement without a chain")
    return day, replayed.following(report.hash)


def _rows(folder: RunFolder, name: str) -> Sequence[Any]:
    """The rows of a file, each with the tokens that its digest is of."""
    value = folder.json(name)
    try:
        rows = read_rows(value["rows"])
        tokens = [(list(map(int, ids)), list(map(int, labels))) for ids, labels in value["tokens"]]
        packed = [b"".join(struct.pack("<q", one) for one in (*ids, *labels)) for ids, labels in tokens]
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise VerificationError(f"{name} does not read as rows ({type(error).__name__}: {error})") from None
    require(len(packed) == len(rows), f"{name} holds the tokens of {len(packed)} rows for {len(rows)}")
    for number, (row, data) in enumerate(zip(rows, packed, strict=True), start=1):
        require_equal(to_hex(sha256(data)), to_hex(row.digest), f"{name}: digest of the tokens of row {number}")
    return rows


def _messages(folder: RunFolder, what: str, receipt: dict[str, Any]) -> list[SignedMessage]:
    """The messages that a receipt names, with their signatures."""
    named = receipt.get("messages")
    if not isinstance(named, dict):
        raise VerificationError(f"receipt of {what} names no messages")
    signed = []
    for name, signature in named.items():
        try:
            digest, by = from_hex(name), from_hex(signature, 65)
        except ValueError:
            raise VerificationError(f"receipt of {what}: a message or its signature is no hex text") from None
        data = folder.blob(digest, MAX_BYTES)
        if data is None:
            raise folder.lacking(f"{what}: message {name}")
        signed.append(SignedMessage(data, by))
    return signed


def _check_receipt(receipt: dict[str, Any], genesis: ContestGenesis, replayed: DayReplay, report: Report) -> int:
    """Check the report and the signatures of a receipt; returns how many of the committee signed."""
    what = f"receipt of day {report.epoch}"
    named = receipt.get("report")
    relayer = named.get("relayer") if isinstance(named, dict) else None
    fields = {
        "epoch": report.epoch,
        "record": to_hex(sha256(replayed.record)),
        "report": {
            "task": to_hex(report.task),
            "epoch": report.epoch,
            "previous_report": to_hex(report.previous_report),
            "seed": to_hex(report.seed),
            "reveals_digest": to_hex(report.reveals_digest),
            "rewards_root": to_hex(report.rewards_root),
            "rewards_total": report.rewards_total,
            "slashes": [{"member": member, "amount": amount} for member, amount in report.slashes],
            "model_hash": to_hex(report.model_hash),
            "record_hash": to_hex(report.record_hash),
        },
        "report_hash": to_hex(report.hash),
    }
    require_equal(receipt, fields, what)
    require_equal(str(relayer).lower(), to_hex(report.relayer), f"{what}.report.relayer")
    signatures = receipt.get("signatures")
    if not isinstance(signatures, dict):
        raise VerificationError(f"{what} holds no signatures")
    seats, digest = seats_of(replayed.state), genesis.domain.report_digest(report)
    accounts = {str(voter): (voter, replayed.state.members[voter].account) for voter in seats.voters}
    for voter, signature in signatures.items():
        require(voter in accounts, f"{what}: {voter} signed and is not of the day's committee")
        try:
            signer = recover(digest, from_hex(signature, 65))
        except ValueError:
            signer = None
        require(signer == accounts[voter][1], f"{what}: the signature of validator {voter} is not its own")
    held = seats.held_by([accounts[voter][0] for voter in signatures])
    require(held >= seats.quorum, f"{what}: {held} seats signed, {seats.quorum} are needed")
    return len(signatures)


def _check_summary(
    summary: dict[str, Any],
    genesis: ContestGenesis,
    days: Sequence[SettledDay],
    final: ContestState,
) -> None:
    """Every figure of the summary that follows from the records; times and names do not."""
    expected = {
        "kind": "contest",
        "task_id": to_hex(genesis.state.scope.task),
        "days": [_day_figures(day) for day in days],
        "members": [
            {
                "member": number,
                "account": member.account,
                "role": "validator" if member.slots else "node",
                "earned": member.earned,
                "slashed": member.slashed,
                "stake": member.stake,
                "balance_start": member.stake + member.slashed,
                # elsewhere a wallet has other uses
                **({} if genesis.on_rpc else {"balance_end": member.stake + member.earned}),
            }
            for number, member in enumerate(final.members)
        ],
        "final_adapter_hash": to_hex(final.adapter),
        "chain": {"chain_id": genesis.domain.chain_id},
        "run": {"seed": genesis.config["seed"], "model_hash": to_hex(genesis.state.terms.base_model)},
    }
    require_equal(summary, expected, "summary.json")


def _day_figures(day: SettledDay) -> dict[str, Any]:
    replay, report = day.replay, day.report
    places = {one.member: place for place, one in enumerate(replay.ranking, start=1)}
    final_places = {one.member: place for place, one in enumerate(replay.final_ranking, start=1)}
    slashed, rewards = dict(report.slashes), replay.rewards
    chunk, final = _scored(replay, set_b=False), _scored(replay, set_b=True)
    return {
        "day": report.epoch,
        "leader": to_hex(report.model_hash),
        "settlement_tx": day.transaction,
        "gas_used": day.gas_used,
        "submissions": [
            {
                "member": one.member,
                "account": replay.state.members[one.member].account,
                "rank": places.get(one.member),
                "final_rank": final_places.get(one.member),
                "payload": to_hex(one.payload) if one.payload else None,
                "copy_of": to_hex(one.copy_of) if one.copy_of else None,
                "rung": chunk.get(one.payload, ("", None))[0],
                "score": chunk.get(one.payload, ("", None))[1],
                "final_score": final.get(one.payload, ("", None))[1],
                "state": one.steps[-1][0],
                "reason": "copy" if one.unpaid else one.steps[-1][2],
                "reward": rewards.get(one.member, 0),
                "slashed": slashed.get(one.member, 0),
            }
            for one in replay.submissions
        ],
        "rungs": [
            {
                "name": rung.name,
                "contenders": len(rung.contenders),
                "rows": len(rung.places),
                "eliminated": len(rung.eliminated),
            }
            for rung in replay.rungs
        ],
        "validators": [
            {
                "member": voter,
                "account": replay.state.members[voter].account,
                "work": work,
                "distance": distance,
                "failed": failed,
                "reward": rewards.get(voter, 0),
                "slashed": slashed.get(voter, 0),
            }
            for voter, (work, distance, failed) in sorted(replay.validators.items())
        ],
    }


def _scored(replay: DayReplay, set_b: bool) -> dict[bytes | None, tuple[str, int]]:
    """{payload: (last rung that scored it, its joint score there)}, on the day's rows or on set B."""
    return {
        payload: (rung.name, score)
        for rung in replay.rungs
        if rung.complete and (rung.name == "final") == set_b
        for payload, score in rung.scores.items()
    }
