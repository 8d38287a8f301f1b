"""Epochs of members that do anything, for both implementations of the protocol."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import strategies as st

from flock_ray.protocol.ballot import Check
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.mechanisms import MECHANISMS
from flock_ray.protocol.message import Kind, Message
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import MemberState, TaskState
from tests.protocol.players import Play, account, chain_of, message, new_task, payload_of

GAINS = (-(10**12), -100_000, -20_001, -4_000, -1, 0, 1, 4_000, 30_000, 90_000)


@st.composite
def tasks(draw: st.DrawFn) -> TaskState:
    """A task of any mechanism, with slots, stakes and terms of many kinds."""
    random = draw(st.randoms(use_true_random=False))
    voters, proposers = random.choice([(4, 4), (4, 4), (7, 5), (1, 1), (3, 8)])
    mechanism = draw(st.sampled_from(sorted(MECHANISMS)))
    state = new_task(
        random.choice([8, 9, 24]),
        seed=random.randrange(100),
        num_voters=voters,
        num_proposers=proposers,
        mechanism=mechanism,
        num_epochs=random.choice([1, 3, 6, 9]),
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
    leavers = random.sample(range(len(members)), random.choice([0, 0, 1]))
    left = [Change(member, members[member].slots, 0, leaves=True) for member in leavers]
    return TaskState.first(state.terms, state.scope, tuple(members), state.seed, left)


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


def mischief(random: Random, state: TaskState) -> list[Message]:
    """The messages of an epoch in which most are honest and any may be silent, wrong or contradict itself."""
    voters, proposers = sorted(set(state.roles.voters)), sorted(set(state.roles.proposers))
    rate = random.choice([0.0, 0.03, 0.2])
    pairs = [(voter, proposer) for voter in voters for proposer in proposers]
    level = {proposer: random.choice(GAINS) for proposer in proposers}
    gains = {(v, p): random.choice(GAINS) if random.random() < rate else level[p] + v for v, p in pairs}
    vote = random.choice(GAINS)
    votes = {v: random.choice(GAINS) if random.random() < 0.3 else vote for v in voters}
    checks = {pair: random.choice(list(Check)) if random.random() < rate else Check.VALID for pair in pairs}
    bad = {p: random.choice(list(Check)) for p in proposers if random.random() < rate}
    unlisted = {pair for pair in pairs if random.random() < rate}
    odd = {v for v in voters if random.random() < rate}
    play = Play(
        gain=lambda v, p: gains[v, p],
        candidate_gain=lambda v: votes[v],
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
