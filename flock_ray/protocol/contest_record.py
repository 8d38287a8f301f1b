"""The record of a contest's day: every submission's way, every rung and all money, in one canonical text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from flock_ray.protocol.contest_entries import Entry
from flock_ray.protocol.contest_race import RungResult
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.encoding import Json, canonical_json, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import MemberState, Slash

SCHEMA = "flock_ray/contest_record/1"


def _entry(entry: Entry) -> Json:
    return {
        "member": entry.member,
        "number": entry.number,
        "payload": to_hex(entry.payload) if entry.payload else None,
        "copy_of": to_hex(entry.copy_of) if entry.copy_of else None,
        "unpaid": entry.unpaid,
        "steps": [[step.state, step.phase, step.reason] for step in entry.steps],
    }


def _rung(result: RungResult) -> Json:
    return {
        "name": result.rung.name,
        "seed": to_hex(result.rung.seed),
        "voters": list(result.seats.voters),
        "contenders": [to_hex(payload) for payload in result.rung.contenders],
        "rows": list(result.rung.places),
        "counted": sorted(result.ballots),
        "complete": result.complete,
        "audited": list(result.audited),
        "failed": [[validator, confirmed] for validator, confirmed in result.failed.items()],
        "scores": [[to_hex(payload), score] for payload, score in result.scores.items()],
        "eliminated": [[to_hex(payload), one.difference, one.band] for payload, one in result.eliminated.items()],
    }


@dataclass(frozen=True)
class ContestRecord:
    """One day, as every member of its committee derives it from the same signed messages.

    Attributes:
        state: that the day started from.
        messages: (kind, member, SHA-256) of every message, in canonical order.
        entries: every submission's way, by ascending member.
        results: of the rungs.
        ranking: nodes in the order of pay; final_ranking: on set B.
        validators: {validator: (work, distance, failed an audit)}.
        reveals: {validator: preimage} of the last rung.
        adapter: hash of the leader's adapter, or of the one before where nobody was ranked.
        rewards: {member: wei} of the day, with what is released and without what is held.
        slashes: what the report carries, in order; carried: what is left for the next report.
        removed: leaves of validators whose stake slashes brought too low.
        members: every member after the day.
        pool_left, escrow, held: wei after the day.
    """

    state: ContestState
    messages: tuple[tuple[str, int, bytes], ...]
    entries: tuple[Entry, ...]
    results: tuple[RungResult, ...]
    ranking: tuple[int, ...]
    final_ranking: tuple[int, ...]
    validators: Mapping[int, tuple[int, int, bool]]
    reveals: Mapping[int, bytes]
    reveals_digest: bytes
    next_seed: bytes
    adapter: bytes
    rewards: Mapping[int, int]
    slashes: tuple[Slash, ...]
    carried: tuple[Slash, ...]
    removed: tuple[Change, ...]
    members: tuple[MemberState, ...]
    pool_left: int
    escrow: int
    held: int

    @property
    def epoch(self) -> int:
        """The day."""
        return self.state.epoch

    @property
    def roles(self) -> Roles:
        """The day's committee, which signs."""
        return self.state.roles

    @property
    def task(self) -> bytes:
        """The contest's id."""
        return self.state.scope.task

    @property
    def seed(self) -> bytes:
        """Seed of the day."""
        return self.state.seed

    @property
    def previous_report(self) -> bytes:
        """Struct hash of the report of the day before, zero before the first."""
        return self.state.previous_report

    @property
    def leaves(self) -> tuple[tuple[str, int], ...]:
        """The cumulative reward table: (account, wei earned so far) of every member that earned anything."""
        return tuple((member.account, member.earned) for member in self.members if member.earned)

    @property
    def rewards_total(self) -> int:
        """Sum of the table, wei."""
        return sum(member.earned for member in self.members)

    @cached_property
    def data(self) -> bytes:
        """The canonical bytes."""
        state = self.state
        value: dict[str, Json] = {
            "schema": SCHEMA,
            "task": to_hex(state.scope.task),
            "epoch": state.epoch,
            "seed": to_hex(state.seed),
            "next_seed": to_hex(self.next_seed),
            "previous_report": to_hex(state.previous_report),
            "previous_record": to_hex(state.previous_record),
            "changes": [list(change.row) for change in state.changes],
            "joined": [member.joined_row for member in state.members[state.num_before :]],
            "voters": list(state.roles.voters),
            "messages": [[kind, member, to_hex(digest)] for kind, member, digest in self.messages],
            "submissions": [_entry(entry) for entry in self.entries],
            "rungs": [_rung(result) for result in self.results],
            "ranking": list(self.ranking),
            "final_ranking": list(self.final_ranking),
            "validators": [[member, *one] for member, one in sorted(self.validators.items())],
            "reveals": [[member, to_hex(preimage)] for member, preimage in sorted(self.reveals.items())],
            "reveals_digest": to_hex(self.reveals_digest),
            "adapter": to_hex(self.adapter),
            "rewards": [[member, wei] for member, wei in sorted(self.rewards.items())],
            "slashes": [slash.json() for slash in self.slashes],
            "carried": [slash.json() for slash in self.carried],
            "removed": [[change.member, change.epoch] for change in self.removed],
            "members": [
                [number, *after.row]
                for number, (before, after) in enumerate(zip(state.members, self.members, strict=True))
                if after != before
            ],
            "pool_left": self.pool_left,
            "escrow": self.escrow,
            "held": self.held,
        }
        return canonical_json(value)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes."""
        return sha256(self.data)
