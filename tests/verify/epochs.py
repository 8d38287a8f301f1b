"""Epochs of members that do anything, for both implementations of the protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from hypothesis import strategies as st

from flock_ray.protocol.ballot import (
    MAX_SCORE,
    BallotA,
    BallotB,
    Check,
    ProposalEntry,
    Score,
    read_ballot_a,
    read_ballot_b,
)
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.mechanisms import MECHANISMS
from flock_ray.protocol.message import Kind, Message
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import MemberState, TaskState
from tests.protocol.players import (
    STAKE,
    Play,
    account,
    chain_of,
    committed_and_revealed,
    message,
    new_task,
    payload_of,
)

GAINS = (-MAX_SCORE, -100_000, -20_001, -4_000, -201, -1, 0, 0, 1, 51, 4_000, 30_000, 90_000, MAX_SCORE)


@st.composite
def tasks(draw: st.DrawFn) -> TaskState:
    """A task of any mechanism, with slots, stakes and terms of many kinds."""
    random = draw(st.randoms(use_true_random=False))
    voters, proposers = random.choice([(4, 4), (4, 4), (7, 5), (1, 1), (3, 8), (11, 4), (9, 2)])
    mechanism = draw(st.sampled_from(sorted(MECHANISMS)))
    state = new_task(
        random.choice([8, 9, 24]),
        seed=random.randrange(100),
        num_voters=voters,
        num_proposers=proposers,
        mechanism=mechanism,
        num_epochs=random.choice([1, 3, 6, 9]),
        harmful_factor=random.choice([0, 4, 5]),
        max_unsettled=random.choice([1, 2]),
        pool=random.choice([0, 1, 999, 10**21]),
        quantile_bp=random.choice([0, 2_500, 5_000, 10_000]),
        band_z_bp=random.choice([0, 15_000, 20_000]),
        band_ceiling=random.choice([1_000, 20_000]),
        slash_fraction_bp=random.choice([0, 1_000, 3_333, 10_000]),
        mechanism_parameters={
            name: random.choice([parameter.low, parameter.default, parameter.high])
            for name, parameter in MECHANISMS[mechanism].parameters.items()
        },
    )
    members = [
        replace(member, slots=random.choice([1, 1, 2, 5]), stake=random.choice([0, 5, 10**21, 3 * 10**21, 10**22]))
        for member in state.members
    ]
    members = [replace(member, delegated=random.choice([0, 0, member.stake * 4 // 5])) for member in members]
    if mechanism == "marginal":
        members = [replace(member, noted=noted(random)) for member in members]
    leavers = random.sample(range(len(members)), random.choice([0, 0, 1]))
    left = [Change(member, members[member].slots, 0, leaves=True) for member in leavers]
    return TaskState.first(state.terms, state.scope, tuple(members), state.seed, left)


def noted(random: Random) -> dict[str, int]:
    """What `marginal` may have kept of a member."""
    kept = {"accuracy": random.choice([-900_000, -1, 0, 3, 100_000, 400_000, 10**6])} if random.random() < 0.5 else {}
    return kept | (
        {"fees_owed": random.choice([1, STAKE // 100, STAKE // 100 + 1, 10**22])} if random.random() < 0.2 else {}
    )


def come_and_go(random: Random, state: TaskState) -> tuple[list[Change], list[MemberState]]:
    """Changes that are due in the epoch of `state`: removals, sometimes members that leave and one that joins."""
    changes = [change for change in state.leaving if change.epoch <= state.epoch]
    staying = sorted(member for member in range(len(state.members)) if state.stays(member))
    for member in random.sample(staying, min(len(staying), random.choice([0, 0, 0, 1, 2]))):
        changes.append(Change(member, state.members[member].slots, state.epoch, leaves=True))
    joined = []
    if random.random() < 0.2:
        number, slots = len(state.members), random.choice([1, 3, 250])
        stake = slots * state.terms.min_stake + random.choice([0, 1])
        joined.append(
            MemberState(account(number), slots, chain_of(number).tip, stake, delegated=random.choice([0, stake]))
        )
        changes.append(Change(number, slots, state.epoch, leaves=False))
    return changes, joined


@dataclass
class OddPlay(Play):
    """Voters whose ballots may have more or fewer scores than they are asked for.

    Attributes:
        entry: (voter, entry of its ballot A) -> the entry that it signs.
        candidates: (voter, candidates of its ballot B) -> those that it signs.
    """

    entry: Callable[[int, ProposalEntry], ProposalEntry] = lambda voter, entry: entry
    candidates: Callable[[int, BallotB], BallotB] = lambda voter, ballot: ballot

    def _ballots_a(self, state: TaskState, voters: list[int], sent: list[Message]) -> list[Message]:
        made = [one for one in super()._ballots_a(state, voters, sent) if one.kind is Kind.BALLOT_A]
        ballots = {
            one.member: BallotA(tuple(self.entry(one.member, entry) for entry in read_ballot_a(one)[0].entries))
            for one in made
        }
        return committed_and_revealed(state, Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_A, ballots)

    def _ballots_b(self, state: TaskState, voters: list[int], sent: list[Message]) -> list[Message]:
        made = [one for one in super()._ballots_b(state, voters, sent) if one.kind is Kind.BALLOT_B]
        ballots = {one.member: self.candidates(one.member, read_ballot_b(one)[0]) for one in made}
        return committed_and_revealed(state, Kind.BALLOT_B_COMMITMENT, Kind.BALLOT_B, ballots)


def odd_entry(random: Random, entry: ProposalEntry) -> ProposalEntry:
    """An entry without scores, or with another number of them."""
    return random.choice(
        [
            replace(entry, score=None, entering=None),
            replace(entry, score=Score(random.choice(GAINS), 1), entering=None),
            replace(entry, score=Score(random.choice(GAINS), 1), entering=Score(random.choice(GAINS), 1)),
        ]
    )


def odd_candidates(random: Random, ballot: BallotB) -> BallotB:
    """A ballot with fewer or more candidates, in another order, or with a score more or less."""
    some = list(ballot.candidates)
    if some:
        number = random.randrange(len(some))
        random.choice(
            [
                lambda: some.pop(number),
                lambda: some.append(some[number]),
                lambda: some.insert(0, some.pop(number)),
                lambda: some.__setitem__(number, (some[number][0], None)),
                lambda: some.__setitem__(number, (some[number][0], Score(random.choice(GAINS), 1))),
            ]
        )()
    return replace(ballot, candidates=tuple(some))


def bounded(gain: int) -> int:
    return max(-MAX_SCORE, min(MAX_SCORE, gain))


def mischief(random: Random, state: TaskState) -> list[Message]:
    """The messages of an epoch in which most are honest and any may be silent, wrong or contradict itself."""
    voters, proposers = sorted(set(state.roles.voters)), sorted(set(state.roles.proposers))
    rate = random.choice([0.0, 0.03, 0.2])
    pairs = [(voter, proposer) for voter in voters for proposer in proposers]
    level = {proposer: random.choice(GAINS) for proposer in proposers}
    apart = random.choice([0, 1, 1, 700])
    gains = {
        (v, p): random.choice(GAINS) if random.random() < rate else bounded(level[p] + apart * v) for v, p in pairs
    }
    other = {p: random.choice([level[p], level[p], random.choice(GAINS)]) for p in proposers}
    enters = {
        (v, p): random.choice(GAINS) if random.random() < rate else bounded(other[p] - apart * v) for v, p in pairs
    }
    vote = random.choice(GAINS)
    votes = {v: random.choice(GAINS) if random.random() < 0.3 else vote for v in voters}
    further = {(v, step): random.choice([-4_000, -1, 0, 1, 4_000]) for v in voters for step in (2, 3, 5)}
    if random.random() < 0.1:
        further = {key: random.choice(GAINS) for key in further}
    checks = {pair: random.choice(list(Check)) if random.random() < rate else Check.VALID for pair in pairs}
    bad = {p: random.choice(list(Check)) for p in proposers if random.random() < rate}
    unlisted = {pair for pair in pairs if random.random() < rate}
    odd = {v for v in voters if random.random() < rate}
    short = {v for v in voters if random.random() < rate / 2}
    play = OddPlay(
        gain=lambda v, p: gains[v, p],
        entering=lambda v, p: enters[v, p],
        candidate_gain=lambda v: votes[v],
        step_gain=lambda v, step: bounded(votes[v] + further[v, step]) - votes[v],
        entry=lambda v, entry: odd_entry(random, entry) if v in short and random.random() < 0.5 else entry,
        candidates=lambda v, ballot: odd_candidates(random, ballot) if v in short else ballot,
        error=random.choice([0, 1_000, 50_000]),
        check=lambda v, p: bad.get(p, checks[v, p]),
        lists=lambda v, p: (v, p) not in unlisted,
        names=lambda v, candidate: keccak(candidate) if v in odd else candidate,
        weight=lambda v: 2 if v in odd else 1,
        payloads={p: payload_of(state, random.choice(proposers)) for p in proposers if random.random() < rate},
        manifests={
            p: {random.choice(["base_model", "global_adapter", "configuration", "salt", "payload"]): keccak(b"other")}
            for p in proposers
            if random.random() < rate
        },
        reveals={v: keccak(b"made up") for v in voters if random.random() < rate},
        silent={(kind, m) for kind in Kind for m in (*voters, *proposers) if random.random() < rate / 3},
    )
    sent = play.messages(state)
    uproar = 0.9 if random.random() < 0.05 else rate  # with 20 members, more slashes than a report holds
    for member in range(len(state.members)):
        if random.random() < uproar:
            sent += contradictions(random, state, member, sent)
    random.shuffle(sent)
    return sent


def contradictions(random: Random, state: TaskState, member: int, sent: list[Message]) -> list[Message]:
    """Up to three more messages of a member, of any kind."""
    kind = random.choice(list(Kind))
    bodies = [message.body for message in sent if message.kind is kind]
    if not bodies or kind in (Kind.COMMITMENT, Kind.BALLOT_A_COMMITMENT, Kind.BALLOT_B_COMMITMENT):
        marks = random.sample(range(9), random.choice([1, 2, 2, 3]))
        bodies = [{"commitment": to_hex(keccak(b"contradiction %d" % mark))} for mark in marks]
        kind = kind if "commitment" in kind else Kind.COMMITMENT
    return [message(state, kind, member, body) for body in bodies[:3]]
