"""What accounts hold in the vault: pools, delegations, what thaws, what tasks lock, what was earned.

The contracts have no lists: which tasks lock a pool, whom an account delegates to and when it asked for stake back is
read from the vault's logs, what it is worth now from the vault itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from eth_abi.abi import decode
from eth_utils.address import to_checksum_address

from flock_ray.chain.abi import contract
from flock_ray.chain.history import history
from flock_ray.chain.node import ChainNode
from flock_ray.chain.reader import ChainReader
from flock_ray.protocol.hashing import word

_VAULT = "StakeVault"


@dataclass(frozen=True)
class Calendar:
    """The vault's clock; epochs here are the vault's, not a task's.

    Attributes:
        epoch: the current one.
        epoch_length: seconds.
        unbonding_epochs: whole epochs that stake thaws.
        commission_delay: epochs before a new commission counts.
    """

    epoch: int
    epoch_length: int
    unbonding_epochs: int
    commission_delay: int

    def start_of(self, epoch: int) -> int:
        """Unix time at which an epoch begins."""
        return epoch * self.epoch_length

    @property
    def earning_epoch(self) -> int:
        """First epoch in which stake earns that comes in now."""
        return self.epoch + 2

    def thawed_at(self, epoch: int) -> int:
        """Unix time from which stake can be taken out that was asked for in an epoch."""
        return self.start_of(epoch + self.unbonding_epochs + 1)


@dataclass(frozen=True)
class Pool:
    """An operator's pool; amounts in wei.

    Attributes:
        own: active stake of the operator.
        delegated: active stake of its delegators.
        shares: that the delegators hold of it.
        own_thawing: the operator's stake that thaws.
        thawing: the delegators' stake that thaws.
        own_locked: the operator's stake that tasks lock, active or thawing.
        delegated_locked: its delegators' stake that tasks lock, active or thawing.
        rewards: of the operator, to be claimed.
        accepts: whether new delegations are accepted.
        commission: basis points, now.
        next_commission: the one set last.
        commission_from: epoch from which that one counts; 0: none was ever set.
    """

    own: int
    delegated: int
    shares: int
    own_thawing: int
    thawing: int
    own_locked: int
    delegated_locked: int
    rewards: int
    accepts: bool
    commission: int
    next_commission: int
    commission_from: int

    @property
    def own_free(self) -> int:
        """Active stake of the operator that no task locks, wei."""
        return max(0, self.own - self.own_locked)

    @property
    def delegated_free(self) -> int:
        """Active stake of the delegators that no task locks, wei; only tasks of the pool's creators can lock it."""
        return max(0, self.delegated - self.delegated_locked)


@dataclass(frozen=True)
class Request:
    """Stake that was asked for and is not taken out.

    Attributes:
        epoch: of the vault, in which it was asked for.
        amount: wei that it is worth now.
        ready_at: Unix time from which it can be taken out.
    """

    epoch: int
    amount: int
    ready_at: int


@dataclass(frozen=True)
class Delegation:
    """What an account has with an operator; amounts in wei.

    Attributes:
        operator: whom it delegates to.
        shares: of the pool.
        amount: that they are worth.
        earning: whether all of it earns in this epoch.
        rewards: to be claimed.
        claimed: rewards that it has got so far.
        requests: what thaws, or can be taken out.
    """

    operator: str
    shares: int
    amount: int
    earning: bool
    rewards: int
    claimed: int
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Lock:
    """Stake of a pool that a task locks, wei: the operator's own, which is lost first, and its delegators'."""

    task: bytes
    own: int
    delegated: int


@dataclass(frozen=True)
class Creator:
    """An account whose tasks a pool serves.

    Attributes:
        account: the creator.
        since: epoch of the vault from which it counts.
        lockable: the most that a task of the creator could lock of the pool now, wei.
    """

    account: str
    since: int
    lockable: int


class Holdings:
    """Reads the vault."""

    def __init__(self, node: ChainNode, reader: ChainReader, first_block: int) -> None:
        """Read through `node`.

        Args:
            node: the chain.
            reader: of the contracts on it.
            first_block: number of a block before anything happened in the vault; bounds the search of its logs.
        """
        self._node, self._reader, self._first_block = node, reader, first_block

    @cached_property
    def calendar(self) -> Calendar:
        """The vault's clock."""
        functions = ("currentEpoch", "epochLength", "unbondingEpochs", "commissionDelay")
        return Calendar(*(int(self._reader.ask(_VAULT, function)) for function in functions))

    def pool(self, operator: str) -> Pool:
        """An operator's pool; all zero for an account that has none."""
        values = self._reader.struct(_VAULT, "pool", operator)
        commission, following, since = self._reader.ask(_VAULT, "commission", operator)
        return Pool(
            own=values["own"],
            delegated=values["delegated"],
            shares=values["shares"],
            own_thawing=values["ownThawing"],
            thawing=values["thawing"],
            own_locked=values["ownLocked"],
            delegated_locked=values["delegatedLocked"],
            rewards=values["operatorRewards"],
            accepts=values["accepts"],
            commission=commission,
            next_commission=following,
            commission_from=since,
        )

    def locks(self, operator: str) -> list[Lock]:
        """The tasks that lock stake of a pool."""
        logs = self._logs(["Locked"], None, _topic(operator))
        tasks = dict.fromkeys(topics[1] for topics, _ in logs)
        locks = [Lock(task, *self._reader.ask(_VAULT, "lockOf", task, operator)) for task in tasks]
        return [lock for lock in locks if lock.own or lock.delegated]

    def lockable(self, operator: str, creator: str) -> int:
        """The most that a task of a creator could lock of a pool now, wei."""
        return int(self._reader.ask(_VAULT, "lockable", operator, creator))

    def creators(self, operator: str) -> list[Creator]:
        """The creators whose tasks a pool serves, or will serve."""
        logs = self._logs(["CreatorAdded"], _topic(operator))
        named = dict.fromkeys(to_checksum_address(topics[2][12:]) for topics, _ in logs)
        since = {creator: int(self._reader.ask(_VAULT, "servedFrom", operator, creator)) for creator in named}
        return [Creator(it, epoch, self.lockable(operator, it)) for it, epoch in since.items() if epoch]

    def own_requests(self, operator: str) -> list[Request]:
        """What an operator asked for of its own stake and has not taken out, oldest first."""
        logs = self._logs(["Unstaked"], _topic(operator))
        epochs = sorted({int.from_bytes(topics[2], "big") for topics, _ in logs})
        amounts = {epoch: self._reader.ask(_VAULT, "ownThawingOf", operator, epoch) for epoch in epochs}
        return self._requests(amounts)

    def delegation(self, operator: str, account: str) -> Delegation:
        """What an account has with an operator."""
        values = self._reader.struct(_VAULT, "delegation", operator, account)
        logs = self._logs(["Undelegated", "RewardsClaimed"], _topic(operator), _topic(account))
        asked = contract(_VAULT).event_topic("Undelegated")
        epochs = sorted({int.from_bytes(topics[3], "big") for topics, _ in logs if topics[0] == asked})
        amounts = {epoch: self._reader.ask(_VAULT, "thawingOf", operator, account, epoch) for epoch in epochs}
        return Delegation(
            operator=operator,
            shares=values["shares"],
            amount=values["assets"],
            earning=values["shares"] == values["earningShares"],
            rewards=values["rewards"],
            claimed=sum(decode(["uint256"], data)[0] for topics, data in logs if topics[0] != asked),
            requests=tuple(self._requests(amounts)),
        )

    def delegations(self, account: str) -> list[Delegation]:
        """What an account has, or had, with each operator that it ever delegated to."""
        logs = self._logs(["Delegated"], None, _topic(account))
        operators = dict.fromkeys(to_checksum_address(topics[1][12:]) for topics, _ in logs)
        return [self.delegation(operator, account) for operator in operators]

    def _requests(self, amounts: dict[int, int]) -> list[Request]:
        calendar = self.calendar
        return [Request(epoch, amount, calendar.thawed_at(epoch)) for epoch, amount in amounts.items() if amount]

    def _logs(self, events: list[str], *topics: bytes | None) -> list[tuple[list[bytes], bytes]]:
        names = [contract(_VAULT).event_topic(event) for event in events]
        return history(self._node, self._reader.address_of(_VAULT), [names, *topics], self._first_block)


def _topic(account: str) -> bytes:
    return word(int(account, 16))
