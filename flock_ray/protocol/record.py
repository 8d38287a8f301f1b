"""The record of an epoch: seed to verdict in one canonical text, whose hash goes on chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from flock_ray.protocol.encoding import Json, canonical_json, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.roles import Roles
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import MemberState, Slash
from flock_ray.protocol.verdict import CandidateVerdict, ProposalVerdict

SCHEMA = "flock_ray/record/4"


@dataclass(frozen=True)
class Record:
    """One epoch, as every voter derives it from the same signed messages.

    Attributes:
        changes: changes of the members that reached the roster since the record before, in the order of the requests.
        joined: the members that they let in, as they were before the epoch.
        messages: (kind, member, SHA-256) of every message of the inbox, in canonical order.
        reveals: {voter: preimage} of the voters whose ballot B counted.
        accepted: whether the candidate became the global adapter.
        adapter: hash of the global adapter after the epoch.
        rewards: {member: wei} of this epoch.
        slashes: what the report carries, in order; carried: what is left for the next report.
        removed: leaves of members whose stake slashes brought below half of what their slots cost.
        members: every member after the epoch; changed: numbers of those that the epoch changed, which alone are
            written.
        pool_left: wei after the epoch.
        escrow: wei of slashed own stake after the epoch.
        voiceless: voters whose scores did not count, ascending.
        fees: (member, wei charged, wei withheld) of this epoch, by ascending member.
        withheld: wei of earnings that paid fees, over the task so far.
    """

    task: bytes
    epoch: int
    seed: bytes
    next_seed: bytes
    previous_report: bytes
    previous_record: bytes
    changes: tuple[Change, ...]
    joined: tuple[MemberState, ...]
    roles: Roles
    messages: tuple[tuple[str, int, bytes], ...]
    reveals: Mapping[int, bytes]
    reveals_digest: bytes
    proposals: tuple[ProposalVerdict, ...]
    candidate: CandidateVerdict
    accepted: bool
    adapter: bytes
    rewards: Mapping[int, int]
    slashes: tuple[Slash, ...]
    carried: tuple[Slash, ...]
    removed: tuple[Change, ...]
    members: tuple[MemberState, ...]
    changed: tuple[int, ...]
    pool_left: int
    escrow: int
    voiceless: tuple[int, ...] = ()
    fees: tuple[tuple[int, int, int], ...] = ()
    withheld: int = 0

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
        value: dict[str, Json] = {
            "schema": SCHEMA,
            "task": to_hex(self.task),
            "epoch": self.epoch,
            "seed": to_hex(self.seed),
            "next_seed": to_hex(self.next_seed),
            "previous_report": to_hex(self.previous_report),
            "previous_record": to_hex(self.previous_record),
            "changes": [list(change.row) for change in self.changes],
            "joined": [member.joined_row for member in self.joined],
            "voters": list(self.roles.voters),
            "proposers": list(self.roles.proposers),
            "messages": [[kind, member, to_hex(digest)] for kind, member, digest in self.messages],
            "reveals": [[member, to_hex(preimage)] for member, preimage in sorted(self.reveals.items())],
            "reveals_digest": to_hex(self.reveals_digest),
            "proposals": [proposal.json() for proposal in self.proposals],
            "candidate": self.candidate.json(),
            "voiceless": list(self.voiceless),
            "accepted": self.accepted,
            "adapter": to_hex(self.adapter),
            "rewards": [[member, wei] for member, wei in sorted(self.rewards.items())],
            "fees": [list(row) for row in self.fees],
            "withheld": self.withheld,
            "slashes": [slash.json() for slash in self.slashes],
            "carried": [slash.json() for slash in self.carried],
            "removed": [[change.member, change.epoch] for change in self.removed],
            "members": [[number, *self.members[number].row] for number in self.changed],
            "pool_left": self.pool_left,
            "escrow": self.escrow,
        }
        return canonical_json(value)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes."""
        return sha256(self.data)
