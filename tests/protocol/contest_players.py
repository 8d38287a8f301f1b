"""A small contest in pure Python: nodes whose adapters have a hidden quality, and validators that measure it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from flock_ray.protocol.contest import advance_day, derive_day, next_rung, note
from flock_ray.protocol.contest_entries import Entries, Entry, enter, reveal
from flock_ray.protocol.contest_message import ContestInbox, ContestKind, ContestMessage, Finding
from flock_ray.protocol.contest_race import Column, Rung, RungResult, contenders_digest, run_rung, rung_commitment
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_scores import Row, rows_digest
from flock_ray.protocol.contest_state import FINAL, ContestState, ContestTerms, Window, contest_parameters
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import ZERO, keccak, sha256, tagged
from flock_ray.protocol.seed import fixed_genesis
from flock_ray.protocol.state import MemberState, Scope
from tests.protocol.players import TOKEN, account, chain_of

NODE_STAKE = 1_000 * TOKEN
SLOT = 3_000 * TOKEN
DAYS = 3
BASE_LOSS, SPREAD, NOISE = 2_000_000, 20_000, 150_000  # micro-nats a token: mean, step of quality, a row's own part


def chunk(day: int, num_rows: int = 64) -> tuple[Row, ...]:
    """Rows of a day of set A; day 0 is set B."""
    return tuple(Row(sha256(b"row %d %d" % (day, i)), 20 + (7 * i + day) % 40, 100 + 3 * i) for i in range(num_rows))


def new_contest(
    num_nodes: int = 16,
    num_validators: int = 7,
    slots: int = 1,
    seed: int = 1,
    days: int = DAYS,
    num_rows: int = 64,
    stakes: Mapping[int, int] | None = None,
    parameters: Mapping[str, int] | None = None,
    **terms: Any,
) -> ContestState:
    """A contest before its first day; validators are the members 0, 1, …, nodes follow. `terms` replaces values."""
    values: dict[str, Any] = {
        "creator": "0x" + "c0" * 20,
        "configuration": sha256(b"configuration"),
        "base_model": sha256(b"base model"),
        "model_config": sha256(b"model configuration"),
        "tokenizer": sha256(b"tokenizer"),
        "start_adapter": sha256(b"initial adapter"),
        "num_epochs": days,
        "num_voters": 5,
        "num_proposers": 1,
        "max_unsettled": 1,
        "pool": 3_000 * TOKEN,
        "min_stake": SLOT,
        "quantile_bp": 5_000,
        "band_z_bp": 20_000,
        "band_floor": 100,
        "band_ceiling": 10**12,
        "harmful_factor": 4,
        "slash_fraction_bp": 1_000,
        "mechanism": "contest",
        "mechanism_parameters": contest_parameters(parameters or {"top_nodes": 4}),
        "rule": "median",
        "rule_parameters": {},
        "wire_format": "dense",
        "wire_format_parameters": {},
        "metric": "text",
        "scorer": "strict",
        "chunks": tuple(rows_digest(chunk(day, num_rows)) for day in range(1, days + 1)),
        "final_rows": rows_digest(chunk(0, num_rows)),
        "rung_rows": (4, 16, 64),
        "min_node_stake": NODE_STAKE,
        "windows": dict.fromkeys(Window, 60),
    }
    fixed = ContestTerms(**(values | terms))
    members = [MemberState(account(i), slots, chain_of(i).tip, slots * SLOT) for i in range(num_validators)]
    for node in range(num_validators, num_validators + num_nodes):
        members.append(MemberState(account(node), 0, ZERO, (stakes or {}).get(node, NODE_STAKE)))
    scope = Scope(31_337, bytes(range(20)), tagged("contest", fixed.digest(), seed))
    return opened(ContestState.first(fixed, scope, tuple(members), fixed_genesis(seed)), num_rows)


def opened(state: ContestState, num_rows: int = 64) -> ContestState:
    """The state with its day's rows."""
    if state.finished:
        return state
    return state.opened(chunk(state.epoch, num_rows), chunk(0, num_rows) if state.last_day else ())


def number(payload: bytes, *words: int) -> float:
    """A value in [-1, 1] that depends on nothing else."""
    return int.from_bytes(tagged("quality", payload, *words)[:4], "big") / 2**31 - 1


@dataclass
class ContestPlay:
    """How the members behave on one day; the defaults are honest.

    Attributes:
        quality: (payload) -> nats a token, in micro, by which it is worse than the best possible.
        payloads: {node: payload} other than a new one each day.
        measures: (validator, payload, rung, position, honest loss) -> the loss that it says.
        gates: (validator, payload) -> finding; copy_of: (payload) -> what validators find it to be a copy of.
        lists: (validator, node) -> whether the validator lists the node's commitment.
        rescores: validators that score disputed cells again, honestly.
        silent: messages that are never sent.
        manifests: {node: fields of its manifest that differ}.
    """

    quality: Callable[[bytes], int] = lambda payload: 0
    payloads: Mapping[int, bytes] = field(default_factory=dict)
    measures: Callable[[int, bytes, Rung, int, int], int | None] = lambda validator, payload, rung, position, loss: loss
    gates: Callable[[int, bytes], Finding] = lambda validator, payload: Finding.VALID
    copy_of: Callable[[bytes], bytes | None] = lambda payload: None
    lists: Callable[[int, int], bool] = lambda validator, node: True
    rescores: Collection[int] = ()
    silent: Collection[tuple[ContestKind, int]] = ()
    manifests: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def honest_loss(self, payload: bytes, rung: Rung, position: int) -> int:
        """The truth: all submissions share a row's difficulty and differ by their quality and a small own part."""
        row, place = rung.rows[position], rung.places[position]
        set_b = int(rung.name == FINAL)
        shared = NOISE * number(ZERO, place, set_b)
        own = NOISE / 20 * number(payload, place, set_b)
        return max(0, round(row.num_tokens * (BASE_LOSS + self.quality(payload) + shared + own)))

    def messages(self, state: ContestState) -> list[ContestMessage]:
        """Everything that is sent on the day that `state` starts."""
        nodes = [number for number, member in enumerate(state.members) if not member.slots]
        sent = self._commit(state, nodes)
        entries, shuffle = reveal(state, ContestInbox(sent))
        committee = sorted(set(state.roles.voters))
        payloads = sorted({entry.payload for entry in entries if entry.running and entry.payload})
        for validator in committee:
            findings = []
            for payload in payloads:
                original = self.original_of(payload, payloads, state, shuffle)
                findings.append([to_hex(payload), str(self.gates(validator, payload)), original and to_hex(original)])
            self._send(sent, state, ContestKind.GATE, validator, {"findings": findings})
        results: list[RungResult] = []
        while rung := self._next_rung(state, sent, results):
            self._ballots(state, rung, sent)
            racing = self._entries(state, sent, results).racing()
            self._rescore(state, rung, sent)
            results.append(run_rung(state, ContestInbox(sent), rung, racing))
        return sent

    def original_of(self, payload: bytes, payloads: list[bytes], state: ContestState, shuffle: bytes) -> bytes | None:
        """What validators find a payload to be a copy of, among earlier ones and the day's `payloads`."""
        return self.copy_of(payload)

    def record(self, state: ContestState) -> ContestRecord:
        """The record of the day."""
        return derive_day(state, self.messages(state))

    def _send(
        self, sent: list[ContestMessage], state: ContestState, kind: ContestKind, member: int, body: Mapping[str, Any]
    ) -> None:
        if (kind, member) not in self.silent:
            sent.append(message(state, kind, member, body))

    def _commit(self, state: ContestState, nodes: list[int]) -> list[ContestMessage]:
        sent: list[ContestMessage] = []
        for node in nodes:
            commitment = state.scope.payload_commitment(state.epoch, node, self.payload(state, node), salt(state, node))
            self._send(sent, state, ContestKind.COMMITMENT, node, {"commitment": to_hex(commitment)})
        committed = list(sent)
        for validator in sorted(set(state.roles.voters)):
            listed = sorted(to_hex(one.digest) for one in committed if self.lists(validator, one.member))
            self._send(sent, state, ContestKind.ACKNOWLEDGEMENT, validator, {"commitments": listed})
        for node in nodes:
            body = {
                "base_model": to_hex(state.terms.base_model),
                "payload": to_hex(self.payload(state, node)),
                "salt": to_hex(salt(state, node)),
            }
            self._send(sent, state, ContestKind.MANIFEST, node, body | dict(self.manifests.get(node, {})))
        return sent

    def payload(self, state: ContestState, node: int) -> bytes:
        """Hash of the adapter that a node submits."""
        return self.payloads.get(node, payload_of(state.epoch, node))

    def _next_rung(self, state: ContestState, sent: list[ContestMessage], results: list[RungResult]) -> Rung | None:
        return next_rung(state, self._entries(state, sent, results), results)

    def _entries(self, state: ContestState, sent: list[ContestMessage], results: list[RungResult]) -> Entries:
        entries = enter(state, ContestInbox(sent))
        for result in results:
            if result.complete:
                note(entries, result)
        return entries

    def _columns(self, validator: int, rung: Rung) -> tuple[Column, ...]:
        columns: list[Column] = []
        for payload in rung.contenders:
            said = [
                self.measures(validator, payload, rung, position, self.honest_loss(payload, rung, position))
                for position in range(len(rung.rows))
            ]
            losses = [max(0, loss) for loss in said if loss is not None]
            columns.append(tuple(losses) if len(losses) == len(said) else None)
        return tuple(columns)

    def _ballots(self, state: ContestState, rung: Rung, sent: list[ContestMessage]) -> None:
        for validator in sorted(set(rung.committee(state).voters)):
            columns = self._columns(validator, rung)
            reveal = chain_of(validator).preimage(state.epoch) if rung.reveals else ZERO
            own = salt(state, validator, rung.name)
            commitment = rung_commitment(state.scope.task, state.epoch, validator, rung, columns, own, reveal)
            self._send(sent, state, rung.kind("commitment"), validator, {"commitment": to_hex(commitment)})
            body = {
                "contenders": to_hex(contenders_digest(rung.contenders)),
                "columns": [None if column is None else list(column) for column in columns],
                "salt": to_hex(own),
                "reveal": to_hex(reveal) if rung.reveals else None,
            }
            self._send(sent, state, rung.kind("ballot"), validator, body)

    def _rescore(self, state: ContestState, rung: Rung, sent: list[ContestMessage]) -> None:
        cells = [
            [column, position, self.honest_loss(payload, rung, position)]
            for column, payload in enumerate(rung.contenders)
            for position in range(len(rung.rows))
        ]
        for validator in sorted(set(self.rescores) & set(state.roles.voters)):
            self._send(sent, state, rung.kind("rescore"), validator, {"cells": cells})


def payload_of(day: int, node: int) -> bytes:
    """Hash of a new adapter."""
    return sha256(b"adapter %d %d" % (day, node))


def salt(state: ContestState, member: int, purpose: str = "payload") -> bytes:
    return sha256(f"salt {state.epoch} {member} {purpose}".encode())


def message(state: ContestState, kind: ContestKind, member: int, body: Mapping[str, Any]) -> ContestMessage:
    """A message of the state's day, as its receivers parse it."""
    return ContestMessage.parse(ContestMessage(kind, state.scope.task, state.epoch, member, body).data)


def graded(state: ContestState, order: Mapping[bytes, int] | None = None) -> Callable[[bytes], int]:
    """Qualities of the day's honest payloads: the node with the lowest number is the best, each next one worse."""
    nodes = [number for number, member in enumerate(state.members) if not member.slots]
    known = {payload_of(day, node): SPREAD * i for i, node in enumerate(nodes) for day in range(1, 9)}
    known |= order or {}
    return lambda payload: known.get(payload, 0)


def settled(state: ContestState, record: ContestRecord, num_rows: int = 64) -> ContestState:
    """The state of the next day, its rows opened."""
    return opened(advance_day(state, record, keccak(b"report" + record.digest)), num_rows)


def entry_of(record: ContestRecord, node: int) -> Entry:
    return next(entry for entry in record.entries if entry.member == node)


def relayer_share(record: ContestRecord) -> int:
    """Wei that the relayer of a day's report gets from its slashes."""
    return sum(own // 10 for own, _ in _taken(record))


def burnt(record: ContestRecord) -> int:
    """Wei that delegators lost by a day's slashes, which nobody gets."""
    return sum(delegated for _, delegated in _taken(record))


def _taken(record: ContestRecord) -> list[tuple[int, int]]:
    """(wei of own stake, wei of delegated stake) that each slash took, in their order."""
    taken = []
    left = {number: (member.stake - member.delegated) for number, member in enumerate(record.state.members)}
    for slash in record.slashes:
        own = min(slash.amount, left[slash.member])
        left[slash.member] -= own
        taken.append((own, slash.amount - own))
    return taken


def total_wei(state: ContestState) -> int:
    """Everything that the contest's contracts hold: pool, held income, escrow, stakes and rewards."""
    money = sum(member.stake + member.earned for member in state.members)
    return state.pool_left + state.held + state.escrow + money


def shuffled_messages(random: Random, messages: list[ContestMessage]) -> list[ContestMessage]:
    mixed = [*messages, *random.sample(messages, len(messages) // 3)]
    random.shuffle(mixed)
    return mixed
