"""Attacks on a contest's day, played beside the same day without them: 16 nodes, 7 validators, 8 nodes paid.

Every attacker knows the rules. `Case.play` gives the day as attacked; what it came to is compared with the day on which
everybody is honest. Nodes are 7 to 22 by falling quality, validators 0 to 6.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache

from flock_ray.protocol.contest import derive_day
from flock_ray.protocol.contest_message import ContestKind, ContestMessage, Finding
from flock_ray.protocol.contest_race import Rung
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_state import FINAL, ContestState
from flock_ray.protocol.encoding import to_hex
from tests.protocol.contest_players import (
    BASE_LOSS,
    NODE_STAKE,
    SPREAD,
    ContestPlay,
    graded,
    message,
    new_contest,
    payload_of,
    settled,
)

NODES = tuple(range(7, 23))
LEADER, EIGHTH, THIEF = NODES[0], NODES[7], NODES[-1]
TOP = 8
FAR = 40_000_000  # micro-nats that a liar adds to a row
PARAMETERS = {"top_nodes": TOP}


@dataclass(frozen=True)
class Played:
    """A day with an attack and without.

    Attributes:
        attackers: members whose money is the attack's.
        honest: the record without the attack, of the same state but for members that the attack adds.
        attacked: the record with it.
    """

    attackers: tuple[int, ...]
    honest: ContestRecord
    attacked: ContestRecord


@dataclass(frozen=True)
class Case:
    """An attack.

    Attributes:
        name: for people; what: in a sentence.
        play: (seed) -> what came of it.
        unsolved: whether the rules promise no defence.
        lazy: whether its attackers are validators that did not measure what they say.
        days: that are played; more where the draw of seats decides.
    """

    name: str
    what: str
    play: Callable[[int], Played]
    unsolved: bool = False
    lazy: bool = False
    days: int = 8


@cache
def first_day(seed: int) -> ContestState:
    """A contest before its first day."""
    return new_contest(seed=seed, parameters=PARAMETERS)


@cache
def honest_day(seed: int) -> ContestRecord:
    """The first day without an attack."""
    return ContestPlay(quality=graded(first_day(seed))).record(first_day(seed))


@cache
def second_day(seed: int) -> ContestState:
    """After an honest first day."""
    return settled(first_day(seed), honest_day(seed))


@cache
def last_day(seed: int) -> ContestState:
    """After two honest days."""
    state = second_day(seed)
    return settled(state, ContestPlay(quality=graded(state)).record(state))


def against_first(seed: int, attackers: Collection[int], play: ContestPlay) -> Played:
    """An attack on the first day."""
    return Played(tuple(attackers), honest_day(seed), play.record(first_day(seed)))


def byte_copy(seed: int) -> Played:
    """The leader's adapter of the day before, which still beats all new ones."""
    state, stolen = second_day(seed), payload_of(1, LEADER)
    quality = graded(state, {stolen: -10 * SPREAD})
    without = ContestPlay(quality=quality, silent=[(ContestKind.COMMITMENT, THIEF)]).record(state)
    return Played((THIEF,), without, ContestPlay(quality=quality, payloads={THIEF: stolen}).record(state))


class StolenCommitment(ContestPlay):
    """The thief sends the leader's commitment as its own, then what the leader reveals."""

    def _commit(self, state: ContestState, nodes: list[int]) -> list[ContestMessage]:
        sent = super()._commit(state, [node for node in nodes if node != THIEF])
        kinds = (ContestKind.COMMITMENT, ContestKind.MANIFEST)
        theirs = {one.kind: one for one in sent if one.member == LEADER}
        sent += [message(state, kind, THIEF, theirs[kind].body) for kind in kinds]
        listed = sorted(to_hex(one.digest) for one in sent if one.kind is ContestKind.COMMITMENT)
        seen = ContestKind.ACKNOWLEDGEMENT
        return [message(state, seen, one.member, {"commitments": listed}) if one.kind is seen else one for one in sent]


def copied_commitment(seed: int) -> Played:
    """It is bound to its account, so that the thief's reveal opens nothing."""
    return against_first(seed, (THIEF,), StolenCommitment(quality=graded(first_day(seed))))


def measuring(attackers: Collection[int], says: Callable[[bytes, Rung, int, int], int]) -> Callable[..., int | None]:
    """Losses in which these validators say something else."""

    def measures(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int | None:
        return max(0, says(payload, rung, position, loss)) if validator in attackers else loss

    return measures


def as_validator(
    seed: int, attackers: Collection[int], says: Callable[[bytes, Rung, int, int], int], rescored: bool = False
) -> Played:
    """Validators that say something else than they measure, on the first day."""
    play = ContestPlay(quality=graded(first_day(seed)), measures=measuring(attackers, says))
    return against_first(seed, attackers, replace(play, rescores=range(7)) if rescored else play)


def seated(seed: int) -> int:
    """A validator with a seat in every rung of the honest day, or with most."""
    ballots = [set(result.ballots) for result in honest_day(seed).results]
    return max(range(7), key=lambda validator: sum(validator in one for one in ballots))


def copies_the_mean(seed: int) -> Played:
    """A validator that knows every submission's true mean and puts it in place of each row's loss."""
    quality = graded(first_day(seed))
    return as_validator(
        seed, [seated(seed)], lambda payload, rung, at, _: rung.rows[at].num_tokens * (BASE_LOSS + quality(payload))
    )


def copies_a_ballot(seed: int) -> Played:
    """A validator that opens somebody else's ballot in place of what it sealed."""
    state = first_day(seed)
    sent = ContestPlay(quality=graded(state)).messages(state)
    ballots = {one.member: one for one in sent if one.kind is ContestKind.RUNG_1_BALLOT}
    copier, victim = sorted(ballots)[:2]
    others = [one for one in sent if one is not ballots[copier]]
    copy = message(state, ContestKind.RUNG_1_BALLOT, copier, ballots[victim].body)
    return Played((copier,), honest_day(seed), derive_day(state, [*others, copy]))


def lazy_constant(seed: int) -> Played:
    """Scores a tenth of the rows and says the usual loss for the others."""
    return as_validator(
        seed, [seated(seed)],
        lambda _, rung, at, loss: loss if at % 10 == 0 else rung.rows[at].num_tokens * BASE_LOSS,
    )  # fmt: skip


def lazy_base_model(seed: int) -> Played:
    """Scores a tenth of the rows and fills in what the base model says of the others."""
    base = ContestPlay()
    return as_validator(
        seed, [seated(seed)],
        lambda _, rung, at, loss: loss if at % 10 == 0 else base.honest_loss(b"base".ljust(32), rung, at),
    )  # fmt: skip


def lazy_one_for_all(seed: int) -> Played:
    """Scores one submission and says the same of all."""
    play = ContestPlay(quality=graded(first_day(seed)))
    return as_validator(
        seed, [seated(seed)], lambda _, rung, at, __: play.honest_loss(rung.contenders[0], rung, at)
    )  # fmt: skip


def lie(sign: int, target: int, rescored: bool) -> Callable[[int], Played]:
    """Two of seven validators push one node by far."""

    def play(seed: int) -> Played:
        about = payload_of(1, target)
        return as_validator(
            seed, (0, 3), lambda payload, _, __, loss: loss + sign * FAR if payload == about else loss, rescored
        )

    return play


def sybil_nodes(seed: int) -> Played:
    """Four accounts with different adapters of nearly the leader's quality."""
    owned = (LEADER, *NODES[-3:])
    close = {payload_of(1, node): place for place, node in enumerate(NODES[-3:], start=1)}
    return against_first(seed, owned, ContestPlay(quality=graded(first_day(seed), close)))


def sybil_validators(seed: int) -> Played:
    """A validator's stake in two accounts of one slot each, beside the same stake in one account of two slots."""
    halves = first_day(seed)
    one, other, *rest = halves.members
    members = (replace(one, slots=2, stake=one.stake + other.stake), replace(other, slots=0, stake=0), *rest)
    whole = replace(type(halves).first(halves.terms, halves.scope, members, halves.seed), rows=halves.rows)
    absent = [(kind, 1) for kind in (ContestKind.COMMITMENT, ContestKind.MANIFEST)]
    return Played((0, 1), ContestPlay(quality=graded(halves), silent=absent).record(whole), honest_day(seed))


def memorised(seed: int) -> Played:
    """The worst node knows all rows of the day before by heart: its loss on any of them would be 0."""
    state = second_day(seed)
    known = {row.digest for row in first_day(seed).rows}
    mine = payload_of(2, THIEF)

    def measures(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int | None:
        return 0 if payload == mine and rung.rows[position].digest in known else loss

    play = ContestPlay(quality=graded(state))
    return Played((THIEF,), play.record(state), replace(play, measures=measures).record(state))


def leaked_b(node: int) -> Callable[[int], Played]:
    """A node knows set B by heart."""

    def play(seed: int) -> Played:
        state, mine = last_day(seed), payload_of(3, node)

        def measures(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int | None:
            return 0 if payload == mine and rung.name == FINAL else loss

        honest = ContestPlay(quality=graded(state))
        return Played((node,), honest.record(state), replace(honest, measures=measures).record(state))

    return play


def gated(finding: Finding) -> Callable[[int], Played]:
    """The worst node's payload is what the gate finds to be this."""

    def play(seed: int) -> Played:
        bad = payload_of(1, THIEF)
        gates: Callable[[int, bytes], Finding] = lambda _, payload: finding if payload == bad else Finding.VALID  # noqa: E731
        return against_first(seed, (THIEF,), ContestPlay(quality=graded(first_day(seed)), gates=gates))

    return play


def flood(seed: int) -> Played:
    """60 worthless accounts at the minimum stake; the day takes 24, and honest nodes have twice the minimum."""
    stakes = dict.fromkeys(NODES, 2 * NODE_STAKE)
    crowd = range(23, 83)
    state = new_contest(76, seed=seed, stakes=stakes, parameters=PARAMETERS | {"max_submissions": 24})
    quality = graded(state, {payload_of(1, node): 40 * SPREAD for node in crowd})
    absent = [(kind, node) for node in crowd for kind in (ContestKind.COMMITMENT, ContestKind.MANIFEST)]
    play = ContestPlay(quality=quality)
    return Played(tuple(crowd), replace(play, silent=absent).record(state), play.record(state))


def withheld_payload(seed: int) -> Played:
    """The eighth node commits and never reveals."""
    silent = [(ContestKind.MANIFEST, EIGHTH)]
    return against_first(seed, (EIGHTH,), ContestPlay(quality=graded(first_day(seed)), silent=silent))


def withheld_ballot(seed: int) -> Played:
    """A validator seals its ballot of the first rung and never opens it."""
    absent = honest_day(seed).results[0].seats.voters[0]
    silent = [(ContestKind.RUNG_1_BALLOT, absent)]
    return against_first(seed, (absent,), ContestPlay(quality=graded(first_day(seed)), silent=silent))


CASES = (
    Case("byte copy", "yesterday's leader, byte for byte", byte_copy),
    Case("copied commitment", "the leader's commitment and reveal under another account", copied_commitment),
    Case("mean copier", "a validator fills in each submission's true mean", copies_the_mean, lazy=True),
    Case("ballot copier", "a validator opens another's ballot as its own", copies_a_ballot),
    Case("lazy validator, constant", "scores a tenth of the rows, guesses a constant", lazy_constant, lazy=True),
    Case("lazy validator, base model", "… fills in the base model's losses", lazy_base_model, lazy=True),
    Case("lazy validator, one for all", "… scores one submission, says the same of all", lazy_one_for_all, lazy=True),
    Case("lying minority, down", "2 of 7 validators make the leader look bad", lie(1, LEADER, False)),
    Case("lying minority, up", "2 of 7 validators make the worst look good", lie(-1, THIEF, False)),
    Case("… and it is audited", "a quorum scores the disputed rows again", lie(1, LEADER, True)),
    Case("Sybil nodes", "4 accounts with adapters of nearly the leader's quality", sybil_nodes, unsolved=True),
    Case("Sybil validators", "a stake of two slots in two accounts in place of one", sybil_validators, days=96),
    Case("memorised rows", "knows all public rows of the days before by heart", memorised),
    Case("leaked B, worst node", "knows set B by heart", leaked_b(THIEF)),
    Case("leaked B, eighth node", "knows set B by heart", leaked_b(EIGHTH), unsolved=True),
    Case("size bomb", "a payload larger than the contest's limit", gated(Finding.TOO_LARGE)),
    Case("NaN or inf factors", "a payload that is not finite", gated(Finding.NOT_FINITE)),
    Case("malformed bytes", "a payload that is no adapter", gated(Finding.MALFORMED)),
    Case("keys that match nothing", "a payload of layers that the model does not have", gated(Finding.WRONG_KEYS)),
    Case("flood", "60 worthless accounts at the minimum stake", flood),
    Case("payload withheld", "a node commits and does not reveal", withheld_payload),
    Case("ballot withheld", "a validator seals and does not open", withheld_ballot),
)
