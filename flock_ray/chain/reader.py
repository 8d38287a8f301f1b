"""What deployed contracts say of a task, of balances and of rewards, at the latest block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from eth_utils.address import is_address, to_canonical_address, to_checksum_address

from flock_ray.chain.abi import contract
from flock_ray.chain.failures import revert_error
from flock_ray.chain.history import history
from flock_ray.chain.node import ChainNode, Reverted
from flock_ray.chain.values import Addresses, Entry, MemberView, RewardRoots, TaskStatus, TaskTerms, TaskView
from flock_ray.errors import ChainError
from flock_ray.protocol.hashing import word
from flock_ray.protocol.roster import Change

_STATE_FIELDS = (  # of TaskView, in the order of the contract's TaskInfo
    "seed", "last_settled", "epoch_start", "skips", "pool_left", "committed", "claimed", "escrow", "rewards_root",
    "last_report",
)  # fmt: skip

_PAGE = 200
"""Entries that one call asks for; a member takes about 10,000 gas of the call."""

PLACES = {
    "FlockToken": "token", "TaskRegistry": "task", "EpochSettlement": "settlement",
    "RewardDistributor": "distributor", "StakeVault": "vault",
}  # fmt: skip
"""{contract: its field of `Addresses`}."""


class ChainReader:
    """The contracts behind a node."""

    def __init__(self, node: ChainNode, caller: str) -> None:
        """Read through `node`.

        Args:
            node: the chain.
            caller: account that asks; py-evm requires it to hold some gas money.
        """
        self._node = node
        self._caller = caller
        self._addresses = Addresses()

    @property
    def addresses(self) -> Addresses:
        """The contracts in use."""
        return self._addresses

    def timestamp(self) -> int:
        """Time of the latest block, in Unix seconds of chain time."""
        return self._node.timestamp()

    def set_contracts(self, addresses: Addresses) -> None:
        """Use these contracts from now on.

        Args:
            addresses: of token, task and settlement; distributor and vault are read from these contracts.

        Raises:
            ChainError: an address is malformed or has no contract, or the contracts do not refer to each other.
        """
        given = (addresses.token, addresses.task, addresses.settlement)
        try:
            token, task, settlement = map(to_checksum_address, given)
        except ValueError:
            raise ChainError("chain.token, chain.task and chain.settlement must be three addresses, or empty") from None
        for name, address in zip(("FlockToken", "TaskRegistry", "EpochSettlement"), given, strict=True):
            if not self._node.has_code(address):
                raise ChainError(f"there is no contract at {address}, where {name} should be")
        if self._ties("TaskRegistry", task, "token", "settlement") != [token, settlement]:
            raise ChainError(f"the contract at {task} belongs to another token or settlement contract")
        distributor, vault = self._ties("TaskRegistry", task, "distributor", "vault")
        ties = (
            ("EpochSettlement", settlement, {"registry": task, "distributor": distributor}),
            ("RewardDistributor", distributor,
             {"token": token, "registry": task, "settlement": settlement, "vault": vault}),
            ("StakeVault", vault, {"token": token, "registry": task, "distributor": distributor}),
        )  # fmt: skip
        if any(self._ties(name, address, *others) != list(others.values()) for name, address, others in ties):
            raise ChainError(f"the contracts at {task}, {settlement}, {distributor} and {vault} do not belong together")
        self._addresses = Addresses(token, task, settlement, distributor, vault)

    def follow(self, settlement: str) -> None:
        """Use a settlement contract from now on, with those that it refers to.

        Raises:
            ChainError: there is none at this address, or the contracts do not refer to each other.
        """
        (registry,) = self._ties("EpochSettlement", settlement, "registry")
        (token,) = self._ties("TaskRegistry", registry, "token")
        self.set_contracts(Addresses(token, registry, settlement))

    def _ties(self, name: str, address: str, *others: str) -> list[str]:
        """Addresses of other contracts that a contract refers to."""
        return [to_checksum_address(self._read(name, address, other)[0]) for other in others]

    def task_view(self, task: bytes) -> TaskView:
        """State of a task with its members; status NONE for an unknown task."""
        (info,) = self._read("TaskRegistry", self._addresses.task, "taskInfo", task)
        terms, creator, status, *state, num_members, num_slots, num_changes, num_applied = info[:-4]
        joining, seed_block, node_stake, _ = info[-4:]
        rest = dict(zip(_STATE_FIELDS, state, strict=True))
        return TaskView(
            terms=TaskTerms(*terms),
            creator=to_checksum_address(creator),
            status=TaskStatus(status),
            num_slots=num_slots,
            members=tuple(
                MemberView(to_checksum_address(account), *rest)
                for account, *rest in self._pages("membersOf", task, num_members)
            ),
            changes=tuple(Change(*entry) for entry in self._pages("changesOf", task, num_changes)),
            num_applied=num_applied,
            join_deadline=joining,
            seed_block=seed_block,
            node_stake=node_stake,
            **rest,
        )

    def wallet_balances(self, addresses: Sequence[str]) -> dict[str, int]:
        """Tokens in the wallet of each address, wei."""
        answers = self._read_each("FlockToken", "balanceOf", [(address,) for address in addresses])
        return dict(zip(addresses, answers, strict=True))

    def balances(self, addresses: Sequence[str]) -> dict[str, int]:
        """What each address owns, wei: tokens in its wallet, own stake, active or thawing, and rewards in the vault.

        What others delegated to it, and what it delegated to others, is left out.
        """
        owned = self.wallet_balances(addresses)
        pools = self._read_each("StakeVault", "pool", [(address,) for address in addresses])
        fields = contract("StakeVault").output_components("pool")
        for address, values in zip(addresses, pools, strict=True):
            pool = _named(fields, values)
            owned[address] += pool["own"] + pool["ownThawing"] + pool["operatorRewards"]
        return owned

    def releasable(self, task: bytes) -> bool:
        """Whether the stakes of a closed task may be released now."""
        (start,) = self._read("TaskRegistry", self._addresses.task, "releasableAt", task)
        return self.timestamp() >= int(start)

    def paid_to_pool(self, task: bytes, addresses: Sequence[str]) -> set[str]:
        """Those of the addresses whose rewards of a task go to their pools in the vault."""
        answers = self._read_each("RewardDistributor", "paidToPool", [(task, address) for address in addresses])
        return {address for address, pooled in zip(addresses, answers, strict=True) if pooled}

    def claimed(self, task: bytes, addresses: Sequence[str]) -> dict[str, int]:
        """What each address, or its pool in the vault, was paid of a task's rewards so far, wei."""
        answers = self._read_each("RewardDistributor", "claimed", [(task, address) for address in addresses])
        return dict(zip(addresses, answers, strict=True))

    def reward_roots(self, task: bytes) -> RewardRoots:
        """The root of a task's rewards that is paid at the time of the latest block, and the pending roots."""
        distributor = self._addresses.distributor
        ((paying, *_),) = self._read("RewardDistributor", distributor, "accountOf", task)
        ((first, latest, *_),) = self._read("RewardDistributor", distributor, "queueOf", task)
        now, pending = self._node.timestamp(), {}
        for root, _, ready_at in (first, latest):
            if 0 < ready_at <= now:
                paying = root
            elif ready_at:
                pending[root] = ready_at
        return RewardRoots(paying, pending)

    def total_supply(self) -> int:
        """All tokens that exist, wei."""
        return int(self._read("FlockToken", self._addresses.token, "totalSupply")[0])

    def ask(self, name: str, function: str, *args: Any) -> Any:
        """What a contract answers: its one value, an address checksummed, or a tuple of several."""
        values = self._read(name, self.address_of(name), function, *args)
        if len(values) == 1:
            return to_checksum_address(values[0]) if is_address(values[0]) else values[0]
        return values

    def struct(self, name: str, function: str, *args: Any) -> dict[str, Any]:
        """The struct that a contract answers with, by the names of its fields; so the structs in it."""
        return _named(contract(name).output_components(function), self.ask(name, function, *args))

    def address_of(self, name: str) -> str:
        """Where the contract `name` is, of those that have a place in `Addresses`."""
        return str(getattr(self._addresses, PLACES[name]))

    def changes(self, task: bytes, first: int) -> tuple[Change, ...]:
        """The changes of a task's members from number `first` on, in the order of the requests."""
        (count,) = self._read("TaskRegistry", self._addresses.task, "numChanges", task)
        return tuple(Change(*entry) for entry in self._pages("changesOf", task, count, first))

    def members(self, task: bytes, numbers: Sequence[int]) -> tuple[MemberView, ...]:
        """Members of a task by their numbers."""
        entries = self._read_each("TaskRegistry", "memberAt", [(task, number) for number in numbers])
        return tuple(MemberView(to_checksum_address(account), *rest) for account, *rest in entries)

    def entries(self, task: bytes, first_block: int = 0) -> tuple[Entry, ...]:
        """The nodes that entered a contest from a block on, in their order, with the stakes that they entered with."""
        topics = [contract("TaskRegistry").event_topic("Entered"), task]
        return tuple(
            Entry(
                to_checksum_address(account[-20:]), int.from_bytes(data[:32], "big"), int.from_bytes(data[32:64], "big")
            )
            for (_, _, account), data in history(self._node, self._addresses.task, topics, first_block)
        )

    def entered(self, task: bytes, first: int, epoch: int) -> tuple[MemberView, ...]:
        """The nodes from number `first` on, as they entered, that were in when an epoch was settled or given up.

        Up to the first number that is no node's, or that came later: who entered after it waits for it.
        """
        num_members, nodes = self.struct("TaskRegistry", "taskInfo", task)["numMembers"], list[MemberView]()
        if first >= num_members:
            return ()
        topics = [contract("EpochSettlement").event_topic(name) for name in ("EpochSettled", "EpochAbandoned")]
        blocks = [self._block_of(self._addresses.settlement, [topic, task, word(epoch)]) for topic in topics]
        last = max(block for block in blocks if block is not None)
        for member in self.members(task, range(first, num_members)):
            operator = to_canonical_address(member.account).rjust(32, b"\0")
            topics = [contract("TaskRegistry").event_topic("Entered"), task, operator]
            block = self._block_of(self._addresses.task, topics)
            if block is None or block > last:
                break
            nodes.append(self._as_joined(task, member))
        return tuple(nodes)

    def _block_of(self, address: str, topics: Sequence[bytes]) -> int | None:
        """Number of the block of the newest log with these topics; None without one."""
        for tx_hash, _ in self._node.logs(address, topics):
            mined = self._node.receipt(tx_hash)
            return mined[0].block if mined else None
        return None

    def leaves_from(self, task: bytes, account: str) -> int:
        """First epoch without a node that asked to leave a contest; 0 while it has not."""
        return int(self._read("TaskRegistry", self._addresses.task, "leavesFrom", task, account)[0])

    def joined(self, task: bytes, numbers: Sequence[int]) -> tuple[MemberView, ...]:
        """Members of a task by their numbers, with the stake that they joined with: slashes since do not count."""
        return tuple(self._as_joined(task, member) for member in self.members(task, numbers))

    def _as_joined(self, task: bytes, member: MemberView) -> MemberView:
        operator = to_canonical_address(member.account).rjust(32, b"\0")
        topics = [contract("StakeVault").event_topic("Locked"), task, operator]
        [(_, data)] = self._node.logs(self._addresses.vault, topics)
        own, delegated = int.from_bytes(data[:32], "big"), int.from_bytes(data[32:64], "big")
        return replace(member, stake=own + delegated, delegated=delegated)

    def _pages(self, function: str, task: bytes, size: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        """Entries of a list of TaskRegistry, of which there are `size`, from number `start` on."""
        for first in range(start, size, _PAGE):
            bounds = task, first, min(first + _PAGE, size)
            (page,) = self._read("TaskRegistry", self._addresses.task, function, *bounds)
            yield from page

    def _read(self, name: str, address: str, function: str, *args: Any) -> tuple[Any, ...]:
        compiled = contract(name)
        with _named_errors(name, function, address):
            return compiled.decode(function, self._node.call(address, compiled.encode(function, *args), self._caller))

    def _read_each(self, name: str, function: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The one value that each of these calls of a function answers with."""
        compiled, address = contract(name), self.address_of(name)
        with _named_errors(name, function, address):
            calls = [(address, compiled.encode(function, *args)) for args in arguments]
            return [compiled.decode(function, answer)[0] for answer in self._node.call_many(calls, self._caller)]


@contextmanager
def _named_errors(name: str, function: str, address: str) -> Iterator[None]:
    """Raise ChainError where the contract refuses a call or is none, with its name and address."""
    if not address:
        raise ChainError("the contracts are not deployed yet, or chain.token, chain.task, chain.settlement are empty")
    try:
        yield
    except Reverted as reverted:
        raise revert_error(f"{name}.{function} at {address}", reverted.data) from None
    except ValueError as error:
        raise ChainError(f"{address} is no {name}: {error}") from None


def _named(components: Sequence[Any], values: Sequence[Any]) -> dict[str, Any]:
    return {
        item["name"]: _named(item["components"], value) if item["type"] == "tuple" else value
        for item, value in zip(components, values, strict=True)
    }
