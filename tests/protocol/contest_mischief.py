"""Days on which most members are honest and any may be silent, wrong, lazy or contradict itself."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import strategies as st

from flock_ray.protocol.ballot import MAX_SCORE
from flock_ray.protocol.contest_consensus import RULES
from flock_ray.protocol.contest_message import ContestKind, ContestMessage, Finding
from flock_ray.protocol.contest_state import PARAMETERS, ContestState
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import keccak
from tests.protocol.contest_players import ContestPlay, graded, message, new_contest, payload_of


def contests() -> st.SearchStrategy[ContestState]:
    """Contests of many kinds."""
    return st.randoms(use_true_random=False).map(random_contest)


def random_contest(random: Random) -> ContestState:
    """A contest with terms, stakes and parameters of many kinds."""
    num_nodes, validators = random.choice([0, 1, 6, 9]), random.choice([6, 7, 9])
    names = [name for name in PARAMETERS if name != "audit_tolerance" and random.random() < 0.3]
    parameters = {
        name: random.choice([one.low, one.default, one.high, random.randint(one.low, one.high)])
        for name, one in PARAMETERS.items()
        if name in names
    }
    state = new_contest(
        num_nodes,
        validators,
        slots=random.choice([1, 2]),
        seed=random.randrange(1_000),
        days=random.choice([1, 2, 3]),
        num_rows=64,
        stakes={node: random.choice([0, 1, 10**21, 7 * 10**21]) for node in range(validators, validators + num_nodes)},
        parameters=parameters,
        rung_rows=random.choice([(64,), (2, 64), (1, 4, 64)]),
        rule=random.choice(RULES),
        scorer=random.choice(["strict", "flock"]),
        pool=random.choice([1, 999, 10**21, 10**21, 10**24]),
        slash_fraction_bp=random.choice([0, 1_000, 6_000, 10_000]),
        band_z_bp=random.choice([0, 20_000]),
        band_floor=random.choice([0, 100]),
    )
    members = [
        replace(member, delegated=random.choice([0, 0, member.stake // 3, member.stake]), stake=member.stake + 1)
        for member in state.members
    ]
    return replace(state, members=tuple(members))


def mischief(random: Random, state: ContestState) -> list[ContestMessage]:
    """The messages of a day."""
    rate = random.choice([0.0, 0.05, 0.25])
    nodes = [number for number, member in enumerate(state.members) if not member.slots]
    liars = {number for number in range(len(state.members)) if random.random() < rate}
    lie = random.choice(
        [
            lambda loss: max(0, loss - 10**6),
            lambda loss: loss + 10**6,
            lambda loss: loss + random.randrange(40_000),
            lambda loss: MAX_SCORE if loss % 3 == 0 else loss,
            lambda _: None,
        ]
    )
    blown = {payload_of(state.epoch, node) for node in nodes if random.random() < rate / 2}
    grain = random.choice([1, 1, 10**7])  # losses so coarse that many are equal
    known = [one.payload for one in state.earlier] + [payload_of(state.epoch, node) for node in nodes]
    copies = {payload_of(state.epoch, node): random.choice(known) for node in nodes if random.random() < rate}
    bad = {payload_of(state.epoch, node): random.choice(list(Finding)) for node in nodes if random.random() < rate}
    play = ContestPlay(
        quality=graded(state),
        payloads={node: random.choice(known) for node in nodes if known and random.random() < rate},
        measures=lambda v, payload, rung, i, loss: (
            MAX_SCORE if payload in blown and i == 1 else lie(loss) if v in liars else loss - loss % grain
        ),
        gates=lambda v, payload: bad.get(payload, Finding.VALID),
        copy_of=copies.get,
        lists=lambda v, node: (v * node) % 7 != 0 if v in liars else True,
        rescores=[v for v in range(len(state.members)) if random.random() < 0.5],
        silent={(kind, v) for kind in ContestKind for v in range(len(state.members)) if random.random() < rate / 4},
        manifests={
            node: {random.choice(["salt", "payload", "base_model"]): to_hex(keccak(b"other"))}
            for node in nodes
            if random.random() < rate
        },
    )
    sent = play.messages(state)
    uproar = random.random() < 0.05  # with 17 members or more: more slashes than a report holds
    for member in range(len(state.members)):
        if uproar or (member in liars and random.random() < 0.3):
            digests = [to_hex(keccak(b"contradiction %d" % i)) for i in range(2)]
            sent += [message(state, ContestKind.COMMITMENT, member, {"commitment": digest}) for digest in digests]
    return sent
