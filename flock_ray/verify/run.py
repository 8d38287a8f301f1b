"""Verifies a whole run, from the genesis of its task to the last figure of its summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flock_ray.chain.keys import recover
from flock_ray.errors import RunDirectoryError, VerificationError
from flock_ray.lora.serialization import MAX_ADAPTER_BYTES
from flock_ray.protocol.encoding import from_hex, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.message import MAX_BYTES, Message, SignedMessage
from flock_ray.protocol.state import TaskState
from flock_ray.verify.candidate import Payloads
from flock_ray.verify.chain import SettledEpoch
from flock_ray.verify.compare import require, require_equal
from flock_ray.verify.contest_genesis import is_contest
from flock_ray.verify.contest_run import verify_contest
from flock_ray.verify.epoch import Replay, replay, skip
from flock_ray.verify.folder import MAX_JSON, RunFolder
from flock_ray.verify.genesis import TaskGenesis, read_genesis
from flock_ray.verify.membership import changed, due_removals, slots_of
from flock_ray.verify.message_set import open_message
from flock_ray.verify.on_chain import check_settled, is_abandoned, open_chain
from flock_ray.verify.report import Report
from flock_ray.verify.summary import check_adapter, check_summary
from flock_ray.verify.verified import VerifiedRun

Emit = Callable[[str], None]

NOT_PROVABLE = (
    "Not provable from outside: losses and bits per byte (only who holds the data can measure them), factor averaging"
    " errors, wall times, training rates, answers to prompts, silo and model names, who the adversaries are,"
    " events.jsonl, report.html, members/."
)


def verify_run(folder: RunFolder, anchor: str, rpc: str, emit: Emit) -> VerifiedRun:
    """Replay a run and check everything that it claims.

    Args:
        folder: of the run.
        anchor: hex SHA-256 of the genesis, known to the verifier from another source; empty for none.
        rpc: url of a node that the verifier trusts, for a run on an external chain; empty for none.
        emit: called with a line of text for each group of checks that passed.

    Returns:
        What it says.

    Raises:
        VerificationError: the first claim that fails.
        RunDirectoryError: the run is unfinished or pruned, or lacks a file that the checks need.
        ChainError: the node at `rpc` does not answer.
    """
    if is_contest(folder):
        return verify_contest(folder, anchor, rpc, emit)
    genesis = read_genesis(folder)
    state = genesis.state
    if anchor:
        require_equal(anchor.lower().removeprefix("0x"), genesis.anchor.hex(), "anchor of the run")
    terms = state.terms
    emit(
        f"genesis   terms, task id, seed, configuration: {len(state.members)} members, {terms.num_epochs} epochs,"
        f" {terms.mechanism}"
    )
    emit(f"anchor     0x{genesis.anchor.hex()} {'is the one given' if anchor else '(compared with nothing)'}")
    if origin := genesis.config.get("start_from"):
        if folder.blob(terms.start_adapter, MAX_ADAPTER_BYTES) is None:
            raise folder.lacking(f"the adapter {to_hex(terms.start_adapter)}, which the members started from,")
        emit(f"start      adapter {to_hex(terms.start_adapter)}, of the terms; config.yaml says from {str(origin)!r}")
    if not folder.has("summary.json"):
        raise RunDirectoryError(f"{folder.path} holds an unfinished run: summary.json is missing")
    check = open_chain(folder, genesis, rpc, emit) if genesis.has_chain else None
    payloads = Payloads(folder, terms)
    epochs: list[SettledEpoch] = []
    abandoned: list[TaskState] = []
    while state.epoch <= terms.num_epochs:
        state = changed(state, *(check.changes(state) if check else (due_removals(state), ())))
        if len(slots_of(state).slots) <= terms.num_voters:
            break
        if is_abandoned(folder, genesis, state.epoch):
            state = skip(state)
            abandoned.append(state)
            emit(f"epoch {state.epoch - 1:<4} abandoned: nothing paid, nobody slashed, the adapter stays")
            continue
        epoch, state = _epoch(folder, genesis, state, payloads, emit)
        epochs.append(epoch)
    beyond = f"records/{state.epoch}.json"
    require(not folder.has(beyond), f"{beyond} is of an epoch that the task does not have")
    check_adapter(folder, genesis, state)
    emit(f"adapter    adapter/ holds {to_hex(state.adapter)}")
    check_summary(folder.json("summary.json"), genesis, epochs, abandoned, state)
    emit("summary    every figure that follows from the signed messages")
    if check:
        check_settled(check, genesis, epochs, abandoned, state, emit)
    else:
        emit("chain      none: the money is in the records only")
    emit(NOT_PROVABLE)
    return VerifiedRun(genesis, tuple(epochs), state)


def _epoch(
    folder: RunFolder, genesis: TaskGenesis, state: TaskState, payloads: Payloads, emit: Emit
) -> tuple[SettledEpoch, TaskState]:
    """Check an epoch's record, receipt, signatures and payloads; returns the epoch and the state after it."""
    number = state.epoch
    what = f"epoch {number}"
    for name in (f"records/{number}.json", f"receipts/{number}.json"):
        require(folder.has(name), f"{what} of {state.terms.num_epochs}: {name} is missing, yet the run claims its end")
    receipt = folder.json(f"receipts/{number}.json")
    replayed = replay(state, _messages(folder, genesis, state, receipt))
    _check_record(folder, replayed)
    decoded = payloads.check(replayed)
    report = replayed.report(genesis.domain, genesis.relayer)
    signers = _check_receipt(receipt, genesis, replayed, report)
    settlement = receipt.get("settlement")
    if not isinstance(settlement, dict):
        settlement = {}
    settled = SettledEpoch(replayed, report, settlement.get("transaction"), settlement.get("gas_used"))
    if not genesis.has_chain:
        require_equal(
            [settled.transaction, settled.gas_used], [None, None], f"receipt of {what}: settlement without a chain"
        )
    emit(
        f"epoch {number:<4} {len(replayed.messages.named)} signed messages, {decoded} payloads,"
        f" {'accepted' if replayed.accepted else 'rejected'}, {sum(replayed.rewards.values())} wei paid,"
        f" {len(replayed.accounting.slashes)} slashes, {signers} signatures"
    )
    return settled, replayed.following(report.hash)


def _messages(folder: RunFolder, genesis: TaskGenesis, state: TaskState, receipt: dict[str, Any]) -> list[Message]:
    """The messages that a receipt names, each opened."""
    what = f"epoch {state.epoch}"
    named = receipt.get("messages")
    if not isinstance(named, dict):
        raise VerificationError(f"receipt of {what} names no messages")
    messages = []
    for name, signature in named.items():
        try:
            digest, signed = from_hex(name), from_hex(signature, 65)
        except ValueError:
            raise VerificationError(f"receipt of {what}: a message or its signature is no hex text") from None
        data = folder.blob(digest, MAX_BYTES)
        if data is None:
            raise folder.lacking(f"{what}: message {name}")
        try:
            messages.append(open_message(SignedMessage(data, signed), state, genesis.domain))
        except VerificationError as error:
            raise VerificationError(f"{what}: message {name[:18]}…: {error}") from None
    return messages


def _check_record(folder: RunFolder, replayed: Replay) -> None:
    name = f"records/{replayed.state.epoch}.json"
    require_equal(folder.json(name), replayed.fields, f"epoch {replayed.state.epoch} record")
    require(folder.read(name, MAX_JSON) == replayed.record, f"{name} is not the canonical text of its record")


def _check_receipt(receipt: dict[str, Any], genesis: TaskGenesis, replayed: Replay, report: Report) -> int:
    """Check the report and the signatures of a receipt; returns how many voters signed."""
    what = f"receipt of epoch {report.epoch}"
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
    digest = genesis.domain.report_digest(report)
    accounts = {str(voter): (voter, replayed.state.members[voter].account) for voter in replayed.seats.voters}
    for voter, signature in signatures.items():
        require(voter in accounts, f"{what}: {voter} signed and is no voter of the epoch")
        try:
            signer = recover(digest, from_hex(signature, 65))
        except ValueError:
            signer = None
        require(signer == accounts[voter][1], f"{what}: the signature of voter {voter} is not its own")
    seats = replayed.seats.held_by([accounts[voter][0] for voter in signatures])
    require(seats >= replayed.seats.quorum, f"{what}: {seats} seats signed, {replayed.seats.quorum} are needed")
    return len(signatures)
