"""What a cell came to: one row of figures, computed from a played task alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from benchmarks.robustness_world import NOISE, ODD, SHUFFLED, Cell
from flock_ray.adversary.behaviour import AS_PROPOSER, AS_VOTER
from flock_ray.adversary.part import changed_by, coalition_secret, parts
from flock_ray.chain.values import TOKEN
from flock_ray.config import Config, behaviours
from flock_ray.in_process import Played
from flock_ray.protocol.fees import FEES_OWED
from flock_ray.protocol.record import Record
from flock_ray.store.files import plain

BACKDOORS = ("backdoor", "model_replacement")
"""Attacks whose success is the probability of their token."""
SHARE = 0.3
"""Of the members that cheat, where nothing else is said."""
_UNSENT = ("missing", "refused", "malformed")


@dataclass(frozen=True)
class Role:
    """The seats of one role in all epochs, and what they were paid; of those, what was dishonest.

    Attributes:
        seats, dishonest_seats: counts.
        paid, dishonest_paid: gross rewards, tokens.
    """

    seats: int
    dishonest_seats: int
    paid: float
    dishonest_paid: float

    @property
    def leakage(self) -> float | None:
        """Share of the rewards over share of the seats; None where no seat was dishonest or nothing was paid."""
        if not self.dishonest_seats or not self.paid:
            return None
        return self.dishonest_paid / self.paid / (self.dishonest_seats / self.seats)


@dataclass(frozen=True)
class Conduct:
    """What became of a group of members.

    Attributes:
        seats: that they held, of both roles.
        proposals, accepted: that they sent, malformed ones among them.
        slashes: by how many; slashed, fees: tokens.
    """

    seats: int
    proposals: int
    accepted: int
    slashes: int
    slashed: float
    fees: float


@dataclass(frozen=True)
class Row:
    """The figures of a cell.

    Attributes:
        before, after: held-out loss of each member, nats a token, at the start and at the end.
        dishonest: members that cheat.
        proposers, voters: pay by role.
        honest, others: conduct of honest members and of those that cheat.
        epochs, lost: of the task, and of these without a new global adapter.
        net: tokens that each member earned less those that it was slashed and owes.
        proposed, accepted: proposals of each member.
        backdoor: {attack: probability of its token after its trigger} at honest members, at the end.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    dishonest: tuple[int, ...]
    proposers: Role
    voters: Role
    honest: Conduct
    others: Conduct
    epochs: int
    lost: int
    net: tuple[float, ...]
    proposed: tuple[int, ...]
    accepted: tuple[int, ...]
    backdoor: dict[str, float]

    def json(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(plain(asdict(self)))

    @classmethod
    def of(cls, value: dict[str, Any]) -> Row:
        """Read such values."""
        lists = {name: tuple(item) for name, item in value.items() if isinstance(item, list)}
        roles = {name: Role(**value[name]) for name in ("proposers", "voters")}
        return cls(**{**value, **lists, **roles, **{name: Conduct(**value[name]) for name in ("honest", "others")}})

    def gain(self, members: Collection[int]) -> float:
        """By how much the mean loss of these members fell, nats a token."""
        return fmean(self.before[member] - self.after[member] for member in members)

    @property
    def honest_members(self) -> list[int]:
        """Those that do not cheat."""
        return [member for member in range(len(self.before)) if member not in self.dishonest]

    def lost_gain(self, clean: Row) -> float:
        """Share of the honest members' gain that they lack of what they have without the attack."""
        honest = self.honest_members
        return 1 - self.gain(honest) / clean.gain(honest)


def honest_seats(attack: str, records: Sequence[Record], dishonest: Collection[int]) -> set[tuple[int, int]]:
    """(epoch, proposer) of the seats in which a member that cheats sent what an honest one sends.

    The first update of who repeats it is its own; who copies one member has nothing before others sent something; and
    of accomplices that share a training the first one trained.
    """
    name, seats = attack.partition("+")[0].partition("@")[0], set()
    sent = set[int]()
    for record in records:
        drawn = sorted(set(record.roles.proposers).intersection(dishonest))
        if name == "shared_training":
            seats |= {(record.epoch, member) for member in drawn[:1]}
        elif name == "copy_noise":
            seats |= {(record.epoch, member) for member in drawn if member not in sent}
        elif name == "mimic" and sent <= set(dishonest):
            seats |= {(record.epoch, member) for member in drawn}
        sent |= {one.member for one in record.proposals if one.status not in _UNSENT}
    return seats


def role_pay(
    records: Sequence[Record], proposers: bool, dishonest: Collection[int], exempt: Collection[tuple[int, int]] = ()
) -> Role:
    """The pay of one role, before fees; every member has one role an epoch.

    Args:
        records: of all epochs.
        proposers: whether of proposers, or of voters.
        dishonest: members whose seats are dishonest.
        exempt: (epoch, member) of those seats of theirs that are not.
    """
    seats = dishonest_seats = paid = dishonest_paid = 0
    for record in records:
        held = record.roles.proposer_seats if proposers else record.roles.voter_seats
        withheld = {member: wei for member, _, wei in record.fees}
        for member, count in held.items():
            wei = record.rewards.get(member, 0) + withheld.get(member, 0)
            seats, paid = seats + count, paid + wei
            if member in dishonest and (record.epoch, member) not in exempt:
                dishonest_seats, dishonest_paid = dishonest_seats + count, dishonest_paid + wei
    return Role(seats, dishonest_seats, paid / TOKEN, dishonest_paid / TOKEN)


def conduct(records: Sequence[Record], members: Collection[int]) -> Conduct:
    """What became of these members."""
    proposals = [one for record in records for one in record.proposals if one.member in members]
    slashes = [one for record in records for one in record.slashes] + list(records[-1].carried)
    own = [one for one in slashes if one.member in members]
    charged = sum(wei for record in records for member, wei, _ in record.fees if member in members)
    held = [
        count
        for record in records
        for seats in (record.roles.proposer_seats, record.roles.voter_seats)
        for member, count in seats.items()
        if member in members
    ]
    return Conduct(
        sum(held),
        sum(one.status != "missing" for one in proposals),
        sum(one.status == "accepted" for one in proposals),
        len(own),
        sum(one.amount for one in own) / TOKEN,
        charged / TOKEN,
    )


def cheats_of(cell: Cell, config: Config) -> dict[int, str]:
    """{member: name of its behaviour}; whose rows are shuffled has data that no behaviour made so."""
    odd = {NOISE: "gaussian", SHUFFLED: "shuffled rows"}
    return odd if cell.attack == ODD else behaviours(config)


def row_of(cell: Cell, config: Config, task: Played) -> Row:
    """The figures of a task that was played."""
    cheats = cheats_of(cell, config)
    dishonest = sorted(cheats)
    members = range(config.alliance.num_members)
    honest = [member for member in members if member not in cheats]
    changed = {"data"} if cell.attack == ODD else changed_by(cell.attack)
    proposing = dishonest if changed.intersection(AS_PROPOSER) else []
    voting = dishonest if changed.intersection(AS_VOTER) else []
    records, exempt = task.records, honest_seats(cell.attack, task.records, dishonest)
    verdicts = [one for record in records for one in record.proposals]
    owed = [member.noted.get(FEES_OWED, 0) for member in task.state.members]
    money = [member.earned - member.slashed - wei for member, wei in zip(task.state.members, owed, strict=True)]
    return Row(
        before=tuple(task.losses[0][member] for member in members),
        after=tuple(task.losses[-1][member] for member in members),
        dishonest=tuple(dishonest),
        proposers=role_pay(records, True, proposing, exempt),
        voters=role_pay(records, False, voting),
        honest=conduct(records, honest),
        others=conduct(records, dishonest),
        epochs=len(records),
        lost=sum(not record.accepted for record in records),
        net=tuple(wei / TOKEN for wei in money),
        proposed=tuple(sum(one.member == member and one.status != "missing" for one in verdicts) for member in members),
        accepted=tuple(
            sum(one.member == member and one.status == "accepted" for one in verdicts) for member in members
        ),
        backdoor=_backdoors(cell, task, honest),
    )


def _backdoors(cell: Cell, task: Played, honest: Sequence[int]) -> dict[str, float]:
    """How far the attack's backdoor opens, or in a clean cell that of each, which nobody taught."""
    own = parts(cell.attack)[0].kind if cell.attack != ODD else None
    names = BACKDOORS if cell.attack == "none" else [name for name in BACKDOORS if own is parts(name)[0].kind]
    return {
        name: task.backdoor(coalition_secret(cell.seed, name if cell.attack == "none" else cell.attack), honest)
        for name in names
    }
