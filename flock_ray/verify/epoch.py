"""One epoch replayed: from the state before it and its signed messages to record, report and the state after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from flock_ray.protocol.encoding import Json, canonical_json, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.message import Message
from flock_ray.protocol.state import TaskState
from flock_ray.verify.accounting import Accounting, settle_accounts, slashes_of
from flock_ray.verify.draw import Seats, digest_of_reveals, seats_of, seed_after, seed_after_skip
from flock_ray.verify.message_set import MessageSet
from flock_ray.verify.payment import Outcome
from flock_ray.verify.payments import PAYMENTS
from flock_ray.verify.report import Report, SigningDomain, merkle_root
from flock_ray.verify.scores import Candidate, Consensus, Verdict, judge_candidate, judge_proposals


@dataclass(frozen=True)
class Replay:
    """Everything that follows from the signed messages of one epoch."""

    state: TaskState
    seats: Seats
    messages: MessageSet
    proposals: tuple[Verdict, ...]
    candidate: Candidate
    accepted: bool
    reveals: Mapping[int, bytes]
    rewards: Mapping[int, int]
    accounting: Accounting

    @property
    def adapter(self) -> bytes:
        """Hash of the global adapter after the epoch."""
        return self.candidate.adapter if self.accepted and self.candidate.adapter else self.state.adapter

    @cached_property
    def reveals_digest(self) -> bytes:
        """Digest of the voters' reveals."""
        return digest_of_reveals(self.reveals)

    @cached_property
    def next_seed(self) -> bytes:
        """Seed of the next epoch."""
        return seed_after(self.state.seed, self.reveals_digest)

    @property
    def leaves(self) -> list[tuple[str, int]]:
        """(account, wei earned so far) of everybody who earned."""
        return [(member.account, member.earned) for member in self.accounting.members if member.earned]

    @cached_property
    def fields(self) -> dict[str, Json]:
        """The record as a JSON value."""
        state, consensus = self.state, self.candidate.consensus
        return {
            "schema": "flock_ray/record/4",
            "task": to_hex(state.scope.task),
            "epoch": state.epoch,
            "seed": to_hex(state.seed),
            "previous_report": to_hex(state.previous_report),
            "previous_record": to_hex(state.previous_record),
            "changes": [[one.member, one.slots, one.epoch, one.leaves] for one in state.changes],
            "joined": [
                [member.account, member.slots, to_hex(member.chain_tip), member.stake, member.delegated]
                for member in state.members[state.num_before :]
            ],
            "voters": list(self.seats.voters),
            "proposers": list(self.seats.proposers),
            "messages": [[kind, member, to_hex(digest)] for kind, member, digest in self.messages.named],
            "reveals": [[voter, to_hex(self.reveals[voter])] for voter in sorted(self.reveals)],
            "reveals_digest": to_hex(self.reveals_digest),
            "next_seed": to_hex(self.next_seed),
            "proposals": [
                {
                    "member": proposal.member,
                    "status": proposal.status,
                    "payload": _hex(proposal.payload),
                    **_consensus(proposal.consensus),
                    "entering": None,
                }
                for proposal in self.proposals
            ],
            "candidate": {
                "adapter": _hex(self.candidate.adapter),
                "weights": [list(pair) for pair in self.candidate.weights],
                **_consensus(consensus),
                "step": 1 if self.candidate.adapter else None,
                "steps": [[1, _hex(self.candidate.adapter), consensus.score if consensus else None]]
                if self.candidate.adapter
                else [],
            },
            "voiceless": [],
            "fees": [],
            "withheld": 0,
            "accepted": self.accepted,
            "adapter": to_hex(self.adapter),
            "rewards": [[member, self.rewards[member]] for member in sorted(self.rewards)],
            "slashes": [slash.json() for slash in self.accounting.slashes],
            "carried": [slash.json() for slash in self.accounting.carried],
            "removed": [[change.member, change.epoch] for change in self.accounting.removed],
            "members": [
                [number, after.stake, after.delegated, after.earned, after.slashed, dict(after.noted)]
                for number, (before, after) in enumerate(zip(state.members, self.accounting.members, strict=True))
                if after != before
            ],
            "pool_left": self.accounting.pool_left,
            "escrow": self.accounting.escrow,
        }

    @cached_property
    def record(self) -> bytes:
        """The record's canonical bytes."""
        return canonical_json(self.fields)

    def report(self, domain: SigningDomain, relayer: bytes) -> Report:
        """The report that carries the record to the contract at `domain`.

        Args:
            domain: chain and contracts.
            relayer: 20-byte account that gets the relayer's part of the slashes.
        """
        task = self.state.scope.task
        return Report(
            task=task,
            epoch=self.state.epoch,
            previous_report=self.state.previous_report,
            seed=self.state.seed,
            reveals_digest=self.reveals_digest,
            rewards_root=merkle_root(domain.leaf(task, account, wei) for account, wei in self.leaves),
            rewards_total=sum(wei for _, wei in self.leaves),
            slashes=tuple((slash.member, slash.amount) for slash in self.accounting.slashes),
            model_hash=self.adapter,
            record_hash=sha256(self.record),
            relayer=relayer,
        )

    def following(self, report_hash: bytes) -> TaskState:
        """The state after the epoch, once its report was signed."""
        return replace(
            self.state,
            members=self.accounting.members,
            epoch=self.state.epoch + 1,
            seed=self.next_seed,
            adapter=self.adapter,
            pool_left=self.accounting.pool_left,
            previous_report=report_hash,
            previous_record=sha256(self.record),
            carried=self.accounting.carried,
            roster=self.accounting.roster,
            escrow=self.accounting.escrow,
            leaving=(*self.state.leaving, *self.accounting.removed),
            changes=(),
            num_before=len(self.state.members),
        )


def replay(state: TaskState, messages: Iterable[Message]) -> Replay:
    """Replay the epoch that `state` starts.

    Args:
        state: before the epoch.
        messages: opened (`message_set.open_message`), in any order.

    Raises:
        VerificationError: the task has too few slots for an epoch.
    """
    seats, sent = seats_of(state), MessageSet.sort(messages)
    ballots_a, ballots_b = sent.ballots_a(state, seats), sent.ballots_b(state, seats)
    payment = PAYMENTS[state.terms.mechanism]
    proposals = judge_proposals(state, seats, sent, ballots_a, payment.scored[0])
    candidate = judge_candidate(state, seats, proposals, ballots_b, payment.scored[1])
    outcome = Outcome(state, seats, proposals, candidate, frozenset(ballots_a.keys() & ballots_b.keys()))
    accepted = candidate.adapter is not None and payment.accepts(outcome)
    rewards, noted = payment.rewards(outcome, accepted), payment.noted(outcome, accepted)
    slashes = slashes_of(state, proposals, payment.slashed(outcome, accepted), sent.equivocators)
    accounting = settle_accounts(state, rewards, slashes, noted, payment.promises_more(state.terms))
    reveals = {voter: ballot.reveal for voter, ballot in ballots_b.items()}
    return Replay(state, seats, sent, proposals, candidate, accepted, reveals, rewards, accounting)


def skip(state: TaskState) -> TaskState:
    """The state after an epoch that was abandoned: only the seed and the number change."""
    return replace(state, epoch=state.epoch + 1, seed=seed_after_skip(state.seed))


def _hex(value: bytes | None) -> str | None:
    return None if value is None else to_hex(value)


def _consensus(consensus: Consensus | None) -> dict[str, Json]:
    if consensus is None:
        return {"score": None, "band": None, "gains": None}
    gains = [list(pair) for pair in consensus.gains.items()]
    return {"score": consensus.score, "band": consensus.band, "gains": gains}
