"""A small alliance in pure Python: tasks to play, and members that send the messages of one epoch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flock_ray.protocol.ballot import (
    Ballot,
    BallotA,
    BallotB,
    Check,
    ProposalEntry,
    Score,
    ballot_body,
    ballot_commitment,
)
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.epoch import advance, derive, judge_proposals, opened_manifests
from flock_ray.protocol.hashing import keccak, sha256, tagged
from flock_ray.protocol.inbox import Inbox, parse_message
from flock_ray.protocol.mechanisms import get_mechanism
from flock_ray.protocol.message import Kind, Manifest, Message
from flock_ray.protocol.parameters import filled
from flock_ray.protocol.record import Record
from flock_ray.protocol.seed import HashChain, fixed_genesis
from flock_ray.protocol.state import MemberState, Scope, TaskState, Terms

TOKEN = 10**18
STAKE = 3_000 * TOKEN

TERMS = Terms(
    creator="0x" + "c0" * 20,
    configuration=sha256(b"configuration"),
    base_model=sha256(b"base model"),
    model_config=sha256(b"model configuration"),
    tokenizer=sha256(b"tokenizer"),
    start_adapter=sha256(b"initial adapter"),
    num_epochs=3,
    num_voters=4,
    num_proposers=4,
    max_unsettled=1,
    pool=1_000 * TOKEN,
    min_stake=STAKE,
    quantile_bp=5_000,
    band_z_bp=20_000,
    band_floor=1_000,
    band_ceiling=20_000,
    harmful_factor=4,
    slash_fraction_bp=1_000,
    mechanism="marginal1",
    mechanism_parameters={"voter_share": 3_000},
    rule="mean",
    rule_parameters={},
    wire_format="dense",
    wire_format_parameters={"max_abs": 64},
)


def account(member: int) -> str:
    return "0x" + keccak(b"account %d" % member)[:20].hex()


def chain_of(member: int) -> HashChain:
    return HashChain(keccak(b"hash chain %d" % member), 16)


def new_task(num_members: int = 8, slots: int = 1, stake: int = STAKE, seed: int = 1, **terms: Any) -> TaskState:
    """A task before its first epoch; `terms` replaces values of TERMS, and parameters are those of its mechanism."""
    declared = get_mechanism(terms.get("mechanism", TERMS.mechanism)).parameters
    parameters = filled(declared, terms.pop("mechanism_parameters", {}), "mechanism.parameters")
    fixed = replace(TERMS, **terms, mechanism_parameters=parameters)
    members = tuple(MemberState(account(i), slots, chain_of(i).tip, stake) for i in range(num_members))
    scope = Scope(31_337, bytes(range(20)), tagged("task", fixed.digest(), seed))
    return TaskState.first(fixed, scope, members, fixed_genesis(seed))


def payload_of(state: TaskState, member: int) -> bytes:
    """Hash of the update that an honest member would make."""
    return sha256(b"update %d %d" % (state.epoch, member) + state.adapter)


def salt_of(epoch: int, member: int, purpose: str) -> bytes:
    return sha256(f"salt {epoch} {member} {purpose}".encode())


@dataclass
class Play:
    """How the members behave in one epoch; the defaults are honest ones with updates that help.

    Attributes:
        gain: (voter, proposer) -> gain that the voter measures, micro-nats a token.
        entering: (voter, proposer) -> gain of what enters, where the mechanism asks for it; as `gain` without one.
        candidate_gain: voter -> gain of the candidate.
        step_gain: (voter, step) -> what a longer step gains over the first one.
        error: standard error of every score.
        check: (voter, proposer) -> what the voter finds.
        lists: (voter, proposer) -> whether the voter lists the proposer's commitment.
        names: (voter, candidate) -> candidate that the voter names.
        weight: voter -> weight that it states for every accepted update, but for `weightless` proposers'.
        payloads: other payload hashes than the honest ones.
        manifests: {proposer: fields of its manifest that differ}.
        reveals: other reveals than the hash chain's.
        silent: messages that are never sent.
    """

    gain: Callable[[int, int], int] = lambda voter, proposer: 50_000 + 100 * proposer + voter
    entering: Callable[[int, int], int] | None = None
    candidate_gain: Callable[[int], int] = lambda voter: 60_000 + voter
    step_gain: Callable[[int, int], int] = lambda voter, step: -step
    error: int = 2_000
    check: Callable[[int, int], Check] = lambda voter, proposer: Check.VALID
    lists: Callable[[int, int], bool] = lambda voter, proposer: True
    names: Callable[[int, bytes], bytes] = lambda voter, candidate: candidate
    weight: Callable[[int], int] = lambda voter: 1
    weightless: Collection[int] = ()
    payloads: Mapping[int, bytes] = field(default_factory=dict)
    manifests: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    reveals: Mapping[int, bytes] = field(default_factory=dict)
    silent: Collection[tuple[Kind, int]] = ()

    def messages(self, state: TaskState) -> list[Message]:
        """Everything that is sent in the epoch that `state` starts."""
        sent: list[Message] = []
        voters = sorted(set(state.roles.voters))
        for stage in (self._commitments, self._lists, self._manifests, self._ballots_a, self._ballots_b):
            sent += [
                message for message in stage(state, voters, sent) if (message.kind, message.member) not in self.silent
            ]
        return sent

    def record(self, state: TaskState) -> Record:
        """What the epoch comes to."""
        return derive(state, Inbox(self.messages(state)))

    def _commitments(self, state: TaskState, voters: list[int], sent: list[Message]) -> list[Message]:
        made = []
        for member in sorted(set(state.roles.proposers)):
            payload = self.payloads.get(member, payload_of(state, member))
            salt = salt_of(state.epoch, member, "payload")
            commitment = state.scope.payload_commitment(state.epoch, member, payload, salt)
            made.append(message(state, Kind.COMMITMENT, member, {"commitment": to_hex(commitment)}))
        return made

    def _lists(self, state: TaskState, voters: list[int], sent: list[Message]) -> list[Message]:
        made = []
        for voter in voters:
            held = sorted(to_hex(message.digest) for message in sent if self.lists(voter, message.member))
            made.append(message(state, Kind.ACKNOWLEDGEMENT, voter, {"commitments": held}))
        return made

    def _manifests(self, state: TaskState, voters: list[int], sent: list[Message]) -> list[Message]:
        made = []
        for member in sorted(set(state.roles.proposers)):
            manifest = Manifest(
                base_model=state.terms.base_model,
                global_adapter=state.adapter,
                configuration=state.terms.configuration,
                samples=sha256(b"samples"),
                steps=15,
                payload=self.payloads.get(member, payload_of(state, member)),
                salt=salt_of(state.epoch, member, "payload"),
            )
            manifest = replace(manifest, **self.manifests.get(member, {}))
            made.append(message(state, Kind.MANIFEST, member, manifest.body()))
        return made

    def _ballots_a(self, state: TaskState, voters: list[int], sent: list[Message]) -> list[Message]:
        mechanism = get_mechanism(state.terms.mechanism)
        asked = (self.gain, self.entering or self.gain)[: mechanism.scores_proposals + mechanism.splits_updates]
        opened = opened_manifests(state, Inbox(sent))
        ballots = {}
        for voter in voters:
            entries = []
            for member, manifest in opened.items():
                check = self.check(voter, member)
                scores = [Score(gain(voter, member), self.error).clamped() for gain in asked if check is Check.VALID]
                entries.append(ProposalEntry(member, manifest.payload, check, *(scores or [None])))
            ballots[voter] = BallotA(tuple(entries))
        return committed_and_revealed(state, Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_A, ballots)

    def _ballots_b(self, state: TaskState, voters: list[int], sent: list[Message]) -> list[Message]:
        mechanism = get_mechanism(state.terms.mechanism)
        accepted = [proposal for proposal in judge_proposals(state, Inbox(sent)) if proposal.status == "accepted"]
        first = sha256(b"candidate" + b"".join(proposal.payload or b"" for proposal in accepted))
        named = {step: first if step == 1 else sha256(first + bytes([step])) for step in mechanism.steps}
        ballots = {}
        for voter in voters:
            gains = {
                step: self.candidate_gain(voter) + (self.step_gain(voter, step) if step > 1 else 0) for step in named
            }
            scores = {
                step: Score(gain, self.error).clamped() if mechanism.scores_candidate else None
                for step, gain in gains.items()
            }
            ballots[voter] = BallotB(
                candidates=tuple((self.names(voter, named[step]), scores[step]) for step in named if accepted),
                weights=tuple(
                    (proposal.member, 0 if proposal.member in self.weightless else self.weight(voter))
                    for proposal in accepted
                ),
                reveal=self.reveals.get(voter, chain_of(voter).preimage(state.epoch)),
            )
        return committed_and_revealed(state, Kind.BALLOT_B_COMMITMENT, Kind.BALLOT_B, ballots)


def message(state: TaskState, kind: Kind, member: int, body: Mapping[str, Any]) -> Message:
    """A message of the state's epoch, as its receivers parse it."""
    return parse_message(Message(kind, state.scope.task, state.epoch, member, body).data)


def committed_and_revealed(
    state: TaskState, committed: Kind, revealed: Kind, ballots: Mapping[int, Ballot]
) -> list[Message]:
    """Commitments to ballots, then the ballots with their salts."""
    commitments, reveals = [], []
    for voter, ballot in ballots.items():
        salt = salt_of(state.epoch, voter, revealed)
        commitment = ballot_commitment(state.scope.task, state.epoch, voter, revealed, ballot, salt)
        commitments.append(message(state, committed, voter, {"commitment": to_hex(commitment)}))
        reveals.append(message(state, revealed, voter, ballot_body(ballot, salt)))
    return commitments + reveals


def settled(state: TaskState, record: Record) -> TaskState:
    """The state after a record whose report was signed."""
    return advance(state, record, keccak(b"report" + record.digest))


def relayer_share(record: Record) -> int:
    """Wei that the relayer of a record's report gets from its slashes."""
    return sum(slash.amount // 10 for slash in record.slashes)


def total_wei(state: TaskState) -> int:
    """Everything that the task's contract holds for a state: pool, what paid fees, stakes and rewards."""
    return (
        state.pool_left + state.withheld + state.escrow + sum(member.stake + member.earned for member in state.members)
    )


def accepted(record: Record) -> list[int]:
    """Members whose proposals a record accepted."""
    return [proposal.member for proposal in record.proposals if proposal.status == "accepted"]


def statuses(record: Record) -> dict[int, str]:
    """{proposer: status} of a record."""
    return {proposal.member: proposal.status for proposal in record.proposals}
