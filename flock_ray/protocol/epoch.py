"""One epoch as a pure function: (state, set of messages) -> record, and (state, record) -> next state.

Every signer of a record calls `derive` on the signed messages and signs only its result.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flock_ray.protocol.ballot import (
    Ballot,
    BallotA,
    BallotB,
    ProposalEntry,
    ballot_commitment,
    read_ballot_a,
    read_ballot_b,
)
from flock_ray.protocol.fees import settle_fees
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.inbox import Inbox, computed_once
from flock_ray.protocol.judging import judge_candidate, judge_proposal
from flock_ray.protocol.mechanism import Outcome
from flock_ray.protocol.mechanisms import get_mechanism
from flock_ray.protocol.message import Kind, Manifest, read_acknowledgement, read_commitment, read_manifest
from flock_ray.protocol.record import Record
from flock_ray.protocol.roster import Change, due_epoch
from flock_ray.protocol.seed import next_seed, reveal_matches, reveals_digest, skip_seed
from flock_ray.protocol.state import MAX_SLASHES, RELAYER_SHARE_BP, MemberState, Slash, TaskState
from flock_ray.protocol.verdict import Panel, ProposalVerdict


@computed_once
def listed_commitments(state: TaskState, inbox: Inbox) -> dict[int, bytes]:
    """{proposer: commitment} of the commitments that at least q voter seats list."""
    roles = state.roles
    seats: Counter[bytes] = Counter()
    for voter, held in roles.voter_seats.items():
        if message := inbox.single(Kind.ACKNOWLEDGEMENT, voter):
            for digest in read_acknowledgement(message):
                seats[digest] += held
    listed = {}
    for proposer in sorted(set(roles.proposers)):
        message = inbox.single(Kind.COMMITMENT, proposer)
        if message and seats[message.digest] >= roles.quorum:
            listed[proposer] = read_commitment(message)
    return listed


@computed_once
def opened_manifests(state: TaskState, inbox: Inbox) -> dict[int, Manifest]:
    """{proposer: manifest} of the manifests that open a listed commitment and fit the task's state."""
    opened = {}
    for proposer, commitment in listed_commitments(state, inbox).items():
        if message := inbox.single(Kind.MANIFEST, proposer):
            manifest = read_manifest(message)
            expected = state.scope.payload_commitment(state.epoch, proposer, manifest.payload, manifest.salt)
            fits = (
                manifest.base_model == state.terms.base_model
                and manifest.global_adapter == state.adapter
                and manifest.configuration == state.terms.configuration
            )
            if expected == commitment and fits:
                opened[proposer] = manifest
    return opened


@computed_once
def opened_ballots_a(state: TaskState, inbox: Inbox) -> dict[int, BallotA]:
    """{voter: ballot A} of the ballots that open their commitment."""
    ballots = {}
    for voter in sorted(set(state.roles.voters)):
        if message := inbox.single(Kind.BALLOT_A, voter):
            ballot, salt = read_ballot_a(message)
            if _opens(state, inbox, Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_A, voter, ballot, salt):
                ballots[voter] = ballot
    return ballots


@computed_once
def opened_ballots_b(state: TaskState, inbox: Inbox) -> dict[int, BallotB]:
    """{voter: ballot B} of the ballots that open their commitment and reveal the right preimage."""
    ballots = {}
    for voter in sorted(set(state.roles.voters)):
        if message := inbox.single(Kind.BALLOT_B, voter):
            ballot, salt = read_ballot_b(message)
            opens = _opens(state, inbox, Kind.BALLOT_B_COMMITMENT, Kind.BALLOT_B, voter, ballot, salt)
            if opens and reveal_matches(state.members[voter].chain_tip, state.epoch, ballot.reveal):
                ballots[voter] = ballot
    return ballots


def _opens(
    state: TaskState, inbox: Inbox, committed: Kind, revealed: Kind, voter: int, ballot: Ballot, salt: bytes
) -> bool:
    message = inbox.single(committed, voter)
    expected = ballot_commitment(state.scope.task, state.epoch, voter, revealed, ballot, salt)
    return message is not None and read_commitment(message) == expected


def _panel(state: TaskState) -> Panel:
    """Who scores in the epoch that `state` starts."""
    return Panel(state.roles, state.terms, get_mechanism(state.terms.mechanism).voiceless(state))


@computed_once
def judge_proposals(state: TaskState, inbox: Inbox) -> tuple[ProposalVerdict, ...]:
    """Verdict on every proposer's proposal, by ascending member; the ballots A decide it."""
    roles, panel, mechanism = state.roles, _panel(state), get_mechanism(state.terms.mechanism)
    entries: defaultdict[tuple[int, bytes], dict[int, ProposalEntry]] = defaultdict(dict)
    for voter, ballot in opened_ballots_a(state, inbox).items():
        for entry in ballot.entries:
            entries[entry.member, entry.payload][voter] = entry
    manifests = opened_manifests(state, inbox)
    copies = Counter(manifest.payload for manifest in manifests.values())
    verdicts = []
    for member in sorted(set(roles.proposers)):
        if manifest := manifests.get(member):
            if copies[manifest.payload] > 1:
                verdicts.append(ProposalVerdict(member, "copied", manifest.payload))
            else:
                found = entries[member, manifest.payload]
                verdicts.append(judge_proposal(member, manifest.payload, found, panel, mechanism))
        else:
            sent = inbox.single(Kind.MANIFEST, member)
            verdicts.append(ProposalVerdict(member, "refused" if sent else "missing"))
    return tuple(verdicts)


@computed_once
def decide(state: TaskState, inbox: Inbox) -> tuple[Outcome, bool]:
    """The outcome of the ballots, and whether the candidate becomes the global adapter."""
    panel, mechanism = _panel(state), get_mechanism(state.terms.mechanism)
    proposals = judge_proposals(state, inbox)
    ballots_b = opened_ballots_b(state, inbox)
    updates = [proposal.member for proposal in proposals if proposal.status == "accepted"]
    candidate = judge_candidate(ballots_b, updates, panel, mechanism)
    present = frozenset(ballots_b) & frozenset(opened_ballots_a(state, inbox))
    outcome = Outcome(state, state.roles, proposals, candidate, present, panel.voiceless)
    return outcome, candidate.candidate is not None and mechanism.accepts(outcome)


def _new_slashes(outcome: Outcome, accepted: bool, inbox: Inbox) -> list[Slash]:
    """At most one slash per member and epoch: p * stake, for the gravest of its offences."""
    state = outcome.state
    reasons = get_mechanism(state.terms.mechanism).slashed(outcome, accepted)
    reasons |= {
        proposal.member: proposal.status for proposal in outcome.proposals if proposal.status in ("malformed", "copied")
    }
    reasons |= dict.fromkeys(inbox.equivocators, "equivocated")
    return [
        Slash(member, state.members[member].stake * state.terms.slash_fraction_bp // 10_000, reason)
        for member, reason in sorted(reasons.items())
    ]


@dataclass(frozen=True)
class Accounting:
    """The money of an epoch after rewards and slashes, and the members that have to leave."""

    members: tuple[MemberState, ...]
    pool_left: int
    escrow: int
    slashes: tuple[Slash, ...]
    removed: tuple[Change, ...]


def settle_money(
    state: TaskState,
    rewards: Mapping[int, int],
    slashes: Sequence[Slash],
    noted: Mapping[int, Mapping[str, int]],
    promises_more: bool,
    withheld: int = 0,
) -> Accounting:
    """Pay and slash, and keep what the mechanism notes of members; `withheld` wei leave the pool as rewards do.

    A slash takes at most the stake, the member's own part first. Of that a tenth goes to the relayer and the rest into
    the escrow; what delegators lose is gone. Where payments leave the pool as it is (`promises_more`) nine tenths go
    back to the pool instead. Who keeps less than half of what its slots cost has to leave.
    """
    members = list(state.members)
    for number in sorted(rewards.keys() | noted.keys()):
        member = members[number]
        members[number] = replace(
            member, earned=member.earned + rewards.get(number, 0), noted=noted.get(number, member.noted)
        )
    pool_left = state.pool_left - (0 if promises_more else sum(rewards.values()) + withheld)
    escrow, done, removed = state.escrow, [], list[Change]()
    for slash in slashes:
        before = members[slash.member]
        amount = min(slash.amount, before.stake)
        own = min(amount, before.stake - before.delegated)
        after = replace(
            before,
            stake=before.stake - amount,
            slashed=before.slashed + amount,
            delegated=before.delegated - (amount - own),
        )
        members[slash.member] = after
        kept = own - own * RELAYER_SHARE_BP // 10_000
        pool_left, escrow = (pool_left + kept, escrow) if promises_more else (pool_left, escrow + kept)
        done.append(replace(slash, amount=amount))
        if all(change.member != slash.member for change in removed):
            removed += _removed(state, slash.member, after)
    return Accounting(tuple(members), pool_left, escrow, tuple(done), tuple(removed))


def _removed(state: TaskState, number: int, member: MemberState) -> list[Change]:
    """The leave of a member whose stake is below half of what its slots cost; none if it would count too late."""
    epoch = due_epoch(state.epoch, state.terms.max_unsettled)
    if 2 * member.stake >= member.slots * state.terms.min_stake or epoch > state.terms.num_epochs:
        return []
    return [Change(number, member.slots, epoch, leaves=True)] if state.stays(number) else []


@computed_once
def derive(state: TaskState, inbox: Inbox) -> Record:
    """The record of the epoch that `state` starts, from the messages received.

    Args:
        state: state before the epoch.
        inbox: its messages; none may be of another task or epoch, or from a non-member.
    """
    assert all(state.concerns(message) for message in inbox.messages)
    outcome, accepted = decide(state, inbox)
    mechanism = get_mechanism(state.terms.mechanism)
    earned = mechanism.rewards(outcome, accepted)
    assert sum(earned.values()) <= outcome.budget
    fees = settle_fees(state.members, earned, mechanism.charged(outcome))
    due = [*state.carried, *_new_slashes(outcome, accepted, inbox), *fees.slashes]
    noted = fees.noted(state.members, mechanism.noted(outcome))
    promises_more = mechanism.promises_more(state.terms)
    money = settle_money(state, fees.rewards, due[:MAX_SLASHES], noted, promises_more, fees.withheld)
    reveals = {voter: ballot.reveal for voter, ballot in opened_ballots_b(state, inbox).items()}
    digest = reveals_digest(reveals)
    candidate = outcome.candidate.candidate
    return Record(
        task=state.scope.task,
        epoch=state.epoch,
        seed=state.seed,
        next_seed=next_seed(state.seed, digest),
        previous_report=state.previous_report,
        previous_record=state.previous_record,
        changes=state.changes,
        joined=state.members[state.num_before :],
        roles=outcome.roles,
        messages=tuple((str(message.kind), message.member, message.digest) for message in inbox.messages),
        reveals=reveals,
        reveals_digest=digest,
        proposals=outcome.proposals,
        candidate=outcome.candidate,
        accepted=accepted,
        adapter=candidate if accepted and candidate else state.adapter,
        rewards=fees.rewards,
        slashes=money.slashes,
        carried=tuple(due[MAX_SLASHES:]),
        removed=money.removed,
        members=money.members,
        changed=tuple(
            number
            for number, (before, after) in enumerate(zip(state.members, money.members, strict=True))
            if before is not after and before != after
        ),
        pool_left=money.pool_left,
        escrow=money.escrow,
        voiceless=tuple(sorted(outcome.voiceless)),
        fees=fees.rows,
        withheld=state.withheld + fees.withheld,
    )


def advance(state: TaskState, record: Record, report_hash: bytes) -> TaskState:
    """The state after a record that a quorum signed.

    Args:
        state: state before the epoch.
        record: its record.
        report_hash: EIP-712 struct hash of the report that carries the record.
    """
    assert record.epoch == state.epoch and report_hash != ZERO
    earlier = state.earlier_adapters if record.adapter == state.adapter else (*state.earlier_adapters, state.adapter)
    most = get_mechanism(state.terms.mechanism).history(state.terms)
    return replace(
        state,
        members=record.members,
        epoch=state.epoch + 1,
        seed=record.next_seed,
        adapter=record.adapter,
        pool_left=record.pool_left,
        previous_report=report_hash,
        previous_record=record.digest,
        roster=state.applied,
        carried=record.carried,
        escrow=record.escrow,
        leaving=(*state.leaving, *record.removed),
        changes=(),
        num_before=len(record.members),
        earlier_adapters=earlier[max(0, len(earlier) - most) :],
        withheld=record.withheld,
    )


def skip(state: TaskState) -> TaskState:
    """The state after an epoch that was abandoned on the chain; adapter, money and previous report do not change."""
    return replace(state, epoch=state.epoch + 1, seed=skip_seed(state.seed))
