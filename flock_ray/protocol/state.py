"""The state of a task between two epochs, and the fixed terms it runs under. Both derive from signed records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Protocol, Self

from flock_ray.protocol.encoding import Json, canonical_json, from_hex, to_hex
from flock_ray.protocol.hashing import ZERO, sha256, tagged
from flock_ray.protocol.roles import Roles, roles
from flock_ray.protocol.roster import Change, Roster, change_slots, founders

TERMS_SCHEMA = "flock_ray/terms/2"
MAX_SLASHES = 16
_MAX_AMOUNT = 1 << 128
RELAYER_SHARE_BP = 1_000


@dataclass(frozen=True)
class Terms:
    """What is fixed for a task's lifetime; amounts in wei, scores in micro-nats a token, shares in basis points.

    Attributes:
        creator: account that created the task, `0x` and 40 hexadecimal digits.
        configuration: SHA-256 of the canonical JSON of the settings that shape the training: model, data, adapter,
            local steps. The run's seed, the paths of model and silos, and how ranks share the work are not in it.
        base_model: hash of the frozen base model's weights.
        model_config: hash of its configuration, which two folders of the same weights may differ in.
        tokenizer: hash of its tokenizer and chat template.
        start_adapter: hash of the adapter that the task starts from.
        num_voters: V; num_proposers: P.
        max_unsettled: epochs that settlement may lag behind training; changes of members count after as many and two.
        quantile_bp: kappa; band_z_bp: z of the acceptance band.
        harmful_factor: a score below -factor * band is harmful.
        slash_fraction_bp: p.
        mechanism, rule, wire_format: names of the payment mechanism, the aggregation rule and the wire format of
            updates, each with its integer parameters by name; neutral to the contract.
    """

    creator: str
    configuration: bytes
    base_model: bytes
    model_config: bytes
    tokenizer: bytes
    start_adapter: bytes
    num_epochs: int
    num_voters: int
    num_proposers: int
    max_unsettled: int
    pool: int
    min_stake: int
    quantile_bp: int
    band_z_bp: int
    band_floor: int
    band_ceiling: int
    harmful_factor: int
    slash_fraction_bp: int
    mechanism: str
    mechanism_parameters: Mapping[str, int]
    rule: str
    rule_parameters: Mapping[str, int]
    wire_format: str
    wire_format_parameters: Mapping[str, int]

    def json(self) -> dict[str, Json]:
        """The terms by name, hashes as text."""
        values: dict[str, Json] = {"schema": TERMS_SCHEMA}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bytes):
                values[item.name] = to_hex(value)
            else:
                values[item.name] = dict(value) if isinstance(value, Mapping) else value
        return values

    @property
    def target_set(self) -> bytes:
        """Hash of the rows that decide at the end, which the contract holds too; zero without any."""
        return ZERO

    @property
    def node_stake(self) -> int:
        """Wei that a node enters with at least, which makes the task a contest; 0: the task takes none."""
        return 0

    def digest(self) -> bytes:
        """SHA-256 of the canonical terms: what the contract stores."""
        return sha256(canonical_json(self.json()))


def is_amount(value: object) -> bool:
    """Whether `value` is an integer in [0, 2^128) and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_AMOUNT


@dataclass(frozen=True)
class Scope:
    """What a commitment is bound to besides the epoch, so that it cannot be replayed elsewhere.

    Attributes:
        chain_id: of the settlement chain (0 without a chain).
        contract: address of the settlement contract as 20 bytes.
        task: the task's id.
    """

    chain_id: int
    contract: bytes
    task: bytes

    def payload_commitment(self, epoch: int, member: int, payload: bytes, salt: bytes) -> bytes:
        """H(chain, contract, task, epoch, sender, payload hash, salt)."""
        contract = int.from_bytes(self.contract, "big")
        return tagged("flock_ray/commitment/1", self.chain_id, contract, self.task, epoch, member, payload, salt)


@dataclass(frozen=True)
class MemberState:
    """One member: its account, its fixed slots and hash-chain tip, and its money in wei.

    Attributes:
        stake: what slashes have left of its stake.
        earned: cumulative rewards, which only grow.
        slashed: cumulative slashes.
        delegated: the part of `stake` that is its delegators'; a slash takes its own part first.
        noted: what the task's mechanism keeps of the member from epoch to epoch, integers by name.
    """

    account: str
    slots: int
    chain_tip: bytes
    stake: int
    earned: int = 0
    slashed: int = 0
    delegated: int = 0
    noted: Mapping[str, int] = field(default_factory=dict)

    @property
    def joined_row(self) -> Json:
        """What a member comes into the task with: account, slots, hash-chain tip, stake, its delegators' part."""
        return [self.account, self.slots, to_hex(self.chain_tip), self.stake, self.delegated]

    @classmethod
    def read_joined(cls, row: object) -> MemberState:
        """The member of such a row.

        Raises:
            ValueError: it is no such row.
        """
        if not isinstance(row, list) or len(row) != 5:
            raise ValueError("a member is [account, slots, hash-chain tip, stake, delegated]")
        account, slots, tip, stake, delegated = row
        if not isinstance(account, str) or any(not is_amount(count) for count in (slots, stake, delegated)):
            raise ValueError("a member has an account, and counts of slots, stake and delegated stake")
        return cls(account, slots, from_hex(tip), stake, delegated=delegated)

    @property
    def row(self) -> tuple[Json, ...]:
        """What an epoch may change of it: stake, its delegators' part, earned, slashed, what the mechanism noted."""
        return self.stake, self.delegated, self.earned, self.slashed, dict(self.noted)


@dataclass(frozen=True)
class Slash:
    """One slash: member, wei, and why."""

    member: int
    amount: int
    reason: str

    def json(self) -> Json:
        """The slash in a record."""
        return {"member": self.member, "amount": self.amount, "reason": self.reason}


class Addressed(Protocol):
    """A message, whatever its kind."""

    @property
    def task(self) -> bytes:
        """32 bytes."""

    @property
    def epoch(self) -> int:
        """That it is of."""

    @property
    def member(self) -> int:
        """Who sent it."""


@dataclass(frozen=True)
class TaskState:
    """Everything that epoch `epoch` starts from.

    Attributes:
        epoch: the next epoch to run, 1-based; num_epochs + 1 when the task is done.
        seed: of that epoch.
        adapter: hash of the global adapter.
        pool_left: wei not yet committed.
        escrow: wei of own stake that slashes took, which nobody is paid from.
        roster: slots of the last settled epoch, and the changes that are due: those that wait were too many for one
            epoch.
        num_changes: changes of the members so far that reached `roster`; the next one has this number in their order.
        leaving: leaves that slashes brought about and that are not due yet.
        before_start: changes of members before the start, from the first one that left again on.
        changes: those that reached `roster` since the last signed epoch; `num_before`: members before them.
        earlier_adapters: hashes of the last global adapters before this one, oldest first, as many as the mechanism
            looks back on; an epoch that left the adapter as it was adds none.
        withheld: wei of earnings that paid fees so far, which left the pool.
        previous_report, previous_record: hashes, zero before the first epoch.
        carried: slashes that did not fit into earlier reports.
    """

    terms: Terms
    scope: Scope
    members: tuple[MemberState, ...]
    epoch: int
    seed: bytes
    adapter: bytes
    pool_left: int
    previous_report: bytes
    previous_record: bytes
    roster: Roster
    carried: tuple[Slash, ...] = ()
    escrow: int = 0
    num_changes: int = 0
    leaving: tuple[Change, ...] = ()
    before_start: tuple[Change, ...] = ()
    changes: tuple[Change, ...] = ()
    num_before: int = 0
    earlier_adapters: tuple[bytes, ...] = ()
    withheld: int = 0

    @classmethod
    def first(
        cls,
        terms: Terms,
        scope: Scope,
        members: tuple[MemberState, ...],
        seed: bytes,
        before_start: Sequence[Change] = (),
    ) -> Self:
        """The state of epoch 1.

        Args:
            terms: of the task.
            scope: where it is settled.
            members: whoever joined, in their order.
            seed: of epoch 1.
            before_start: their changes from the first one that left again on.
        """
        joined = sum(not change.leaves for change in before_start)
        slots = founders(member.slots for member in members[: len(members) - joined])
        for change in before_start:
            slots = change_slots(slots, change)
        return cls(
            terms, scope, members, 1, seed, terms.start_adapter, terms.pool, ZERO, ZERO, Roster(slots),
            num_changes=len(before_start), before_start=tuple(before_start), num_before=len(members),
        )  # fmt: skip

    def changed(self, changes: Sequence[Change], joined: Sequence[MemberState]) -> Self:
        """The state after changes of its members that are due in its epoch.

        Args:
            changes: in the order of the requests.
            joined: the members that they let in, in their order.
        """
        assert all(change.epoch <= self.epoch for change in changes)
        return replace(
            self,
            members=(*self.members, *joined),
            roster=self.roster.announced(changes),
            num_changes=self.num_changes + len(changes),
            leaving=tuple(change for change in self.leaving if change.epoch > self.epoch),
            changes=(*self.changes, *changes),
        )

    @cached_property
    def applied(self) -> Roster:
        """The slots that the next epoch draws from, and the changes that wait on."""
        return self.roster.settled(self.epoch)

    @property
    def adapters(self) -> tuple[bytes, ...]:
        """Hashes of the last global adapters, the current one last."""
        return (*self.earlier_adapters, self.adapter)

    @property
    def slot_owners(self) -> tuple[int, ...]:
        """Member of each slot of the next epoch."""
        return self.applied.owners

    def stays(self, member: int) -> bool:
        """Whether a member holds slots in the next epoch and has not been made to leave."""
        return self.applied.stays(member) and all(change.member != member for change in self.leaving)

    @cached_property
    def roles(self) -> Roles:
        """Roles of the next epoch."""
        terms = self.terms
        return roles(self.seed, self.scope.task, self.epoch, self.slot_owners, terms.num_voters, terms.num_proposers)

    def concerns(self, message: Addressed) -> bool:
        """Whether a message is of this task and epoch and names a member."""
        return (message.task, message.epoch) == (self.scope.task, self.epoch) and message.member < len(self.members)

    @property
    def epochs_left(self) -> int:
        """Epochs still to settle, the next one included."""
        return self.terms.num_epochs - self.epoch + 1

    @property
    def finished(self) -> bool:
        """Whether every epoch has run, or too few slots are left for another."""
        return self.epoch > self.terms.num_epochs or len(self.slot_owners) <= self.terms.num_voters
