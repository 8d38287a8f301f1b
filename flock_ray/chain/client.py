"""The sole owner of a chain and of the relayer's key: what the chain actor wraps.

It relays what members signed and settles what committees signed; its own key can forge neither. Calls are idempotent:
a transaction is identified by its hash, a settlement by the hash of its report.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eth_utils.address import to_checksum_address

from flock_ray.chain.abi import contract
from flock_ray.chain.anvil import find_anvil
from flock_ray.chain.embedded import ETH_TESTER_CHAIN_ID, AnvilNode
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.journal import read_genesis
from flock_ray.chain.keys import load_signer, run_signer
from flock_ray.chain.node import ChainNode, Reverted, revert_error
from flock_ray.chain.outbox import Outbox, State
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.settler import Settler
from flock_ray.chain.values import (
    NOBODY,
    Addresses,
    ChainInfo,
    ChainSpec,
    MemberView,
    RewardRoots,
    TaskStatus,
    TaskTerms,
    TaskView,
    TxContext,
    TxReceipt,
    Waiting,
)
from flock_ray.errors import ChainError, ConfigError, WrongChainError
from flock_ray.protocol.roster import Change

__all__ = ["Addresses", "ChainClient", "ChainInfo", "ChainSpec", "TaskView", "TxContext", "TxReceipt"]

_STATE_FIELDS = (  # of TaskView, in the order of the contract's TaskInfo
    "seed", "last_settled", "epoch_start", "skips", "pool_left", "committed", "claimed", "escrow", "rewards_root",
    "last_report",
)  # fmt: skip


_FIRST_POLL, _LAST_POLL = 0.05, 2.0  # seconds between two looks at the head


class ChainClient:
    """A chain, its contracts and the relayer.

    Make one call at a time; one call of `settle` or `confirm`, which may take long, may run beside it.
    """

    def __init__(self, spec: ChainSpec, run_dir: str) -> None:
        """Start the embedded chain, or rebuild it from `<run_dir>/chain`, or connect to the RPC.

        Raises:
            ChainUnreachableError: no answer, no anvil, or its port is taken.
            WrongChainError: another chain id than `spec.chain_id`.
            KeyMissingError: no key for the relayer (rpc).
            RunDirectoryError: the folder holds another chain.
        """
        folder = Path(run_dir).absolute() / "chain"
        backend = _choose(spec, folder)
        self._relayer = (
            load_signer("relayer", spec.keystore) if backend == "rpc" else run_signer(spec.run_seed, "relayer")
        )
        self._timeout = spec.confirmation_timeout
        self._addresses = Addresses()
        self._node = _open(spec, backend, folder, [*spec.funded, self._relayer.address])
        try:
            if spec.token or spec.task or spec.settlement:
                self.set_contracts(Addresses(spec.token, spec.task, spec.settlement))
            outbox = Outbox(folder / "outbox.sqlite")
            self._settler = Settler(self._node, self._relayer, outbox, self._timeout, spec.max_fee, spec.fixed_members)
            self._finality = State(spec.finality)
        except BaseException:
            self._node.close()
            raise

    def info(self) -> ChainInfo:
        """The chain in use."""
        return ChainInfo(
            self._node.backend, self._node.chain_id, **asdict(self._addresses), relayer=self._relayer.address
        )

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

    def _ties(self, name: str, address: str, *others: str) -> list[str]:
        """Addresses of other contracts that a contract refers to."""
        return [to_checksum_address(self._read(name, address, other)[0]) for other in others]

    def context(self, address: str, creator: str = NOBODY) -> TxContext:
        """What `address` must know to sign its next transactions; `creator` of the task that it joins, if it does."""
        max_fee, tip = self._node.fees()
        tokens = free = 0
        if self._addresses.token:
            tokens = self.wallet_balances([address])[address]
            (free,) = self._read("StakeVault", self._addresses.vault, "lockable", address, creator)
        return TxContext(
            chain_id=self._node.chain_id,
            nonce=self._node.nonce(address),
            max_fee_per_gas=max_fee,
            max_priority_fee_per_gas=tip,
            gas_balance=self._node.balance(address),
            token_balance=tokens,
            free_stake=free,
            **asdict(self._addresses),
        )

    def broadcast(self, raws: list[bytes], epoch: int) -> list[TxReceipt]:
        """Send signed transactions in order and wait for their receipts; one that is mined already keeps its receipt.

        Args:
            raws: signed transactions.
            epoch: the current epoch, 0 before the first; the clock of an embedded chain.

        Raises:
            FundsError: an account cannot pay.
            WrongChainError: signed for another chain.
            ChainError: one reverted (the text names its custom error), was refused, or was not mined in time.
        """
        return [self._node.wait([tx_hash], self._timeout) for tx_hash in [self._node.send(raw, epoch) for raw in raws]]

    def await_seed(self, task: bytes) -> None:
        """Wait until the block whose hash makes a starting task's first seed is mined.

        A development chain mines only when asked to: it is asked for what is missing.

        Raises:
            ChainError: the chain stands still.
        """
        began, pause = time.monotonic(), _FIRST_POLL
        while self.task_view(task).seed_block > self._node.head():
            if self._node.mine():
                continue
            if time.monotonic() - began > self._timeout:
                raise ChainError(f"the chain has mined no block for {self._timeout:g} s (chain.confirmation_timeout)")
            time.sleep(pause)
            pause = min(2 * pause, _LAST_POLL)

    def task_view(self, task: bytes) -> TaskView:
        """State of a task with its members; status NONE for an unknown task."""
        (info,) = self._read("TaskRegistry", self._addresses.task, "taskInfo", task)
        terms, creator, status, *state, num_members, num_slots, num_changes, num_applied, joining, seed_block = info
        rest = dict(zip(_STATE_FIELDS, state, strict=True))
        return TaskView(
            terms=TaskTerms(*terms),
            creator=to_checksum_address(creator),
            status=TaskStatus(status),
            num_slots=num_slots,
            members=tuple(self._member(task, index) for index in range(num_members)),
            changes=tuple(self._change(task, number) for number in range(num_changes)),
            num_applied=num_applied,
            join_deadline=joining,
            seed_block=seed_block,
            **rest,
        )

    def settle(
        self, report: Report, seats: int, signatures: bytes, changed_slots: int = 0, num_changes: int = 0
    ) -> TxReceipt:
        """Settle an epoch, or return the receipt if this report settled it already; see `Settler.settle`."""
        at = self._addresses.settlement
        return self._settler.settle(at, report, seats, signatures, changed_slots, num_changes)

    def confirm(self) -> dict[int, TxReceipt]:
        """Wait until all settlements are as final as `spec.finality`; see `Settler.confirm`."""
        return self._settler.confirm(self._finality)

    def waiting(self) -> Waiting | None:
        """What a settlement currently waits for, None if it does not. Makes no request to the chain."""
        return self._settler.waiting

    def wallet_balances(self, addresses: Sequence[str]) -> dict[str, int]:
        """Tokens in the wallet of each address, wei."""
        token = self._addresses.token
        return {address: self._read("FlockToken", token, "balanceOf", address)[0] for address in addresses}

    def balances(self, addresses: Sequence[str]) -> dict[str, int]:
        """What each address owns, wei: tokens in its wallet, own stake, active or thawing, and rewards in the vault.

        What others delegated to it, and what it delegated to others, is left out.
        """
        owned = self.wallet_balances(addresses)
        names = [item["name"] for item in contract("StakeVault").output_components("pool")]
        for address in addresses:
            (values,) = self._read("StakeVault", self._addresses.vault, "pool", address)
            pool = dict(zip(names, values, strict=True))
            owned[address] += pool["own"] + pool["ownThawing"] + pool["operatorRewards"]
        return owned

    def releasable(self, task: bytes) -> bool:
        """Whether the stakes of a closed task may be released now."""
        (start,) = self._read("TaskRegistry", self._addresses.task, "releasableAt", task)
        return self.timestamp() >= int(start)

    def paid_to_pool(self, task: bytes, addresses: Sequence[str]) -> set[str]:
        """Those of the addresses whose rewards of a task go to their pools in the vault."""
        distributor = self._addresses.distributor
        return {
            address
            for address in addresses
            if self._read("RewardDistributor", distributor, "paidToPool", task, address)[0]
        }

    def claimed(self, task: bytes, addresses: Sequence[str]) -> dict[str, int]:
        """What each address, or its pool in the vault, was paid of a task's rewards so far, wei."""
        distributor = self._addresses.distributor
        return {
            address: self._read("RewardDistributor", distributor, "claimed", task, address)[0] for address in addresses
        }

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

    def close(self) -> None:
        """End an embedded chain and close the files; twice is harmless."""
        self._node.close()
        self._settler.close()

    def _member(self, task: bytes, index: int) -> MemberView:
        (member,) = self._read("TaskRegistry", self._addresses.task, "memberAt", task, index)
        account, stake, slots, tip, leaving, left_at = member
        (lock,) = self._read("StakeVault", self._addresses.vault, "lockOf", task, account)
        return MemberView(to_checksum_address(account), stake, slots, tip, leaving, left_at, lock[1])

    def _change(self, task: bytes, number: int) -> Change:
        return Change(*self._read("TaskRegistry", self._addresses.task, "changeAt", task, number)[0])

    def _read(self, name: str, address: str, function: str, *args: Any) -> tuple[Any, ...]:
        if not address:
            raise ChainError(
                "the contracts are not deployed yet, or chain.token, chain.task, chain.settlement are empty"
            )
        compiled = contract(name)
        try:
            return compiled.decode(
                function, self._node.call(address, compiled.encode(function, *args), self._relayer.address)
            )
        except Reverted as reverted:
            raise revert_error(f"{name}.{function} at {address}", reverted.data) from None
        except ValueError as error:
            raise ChainError(f"{address} is no {name}: {error}") from None


def _choose(spec: ChainSpec, folder: Path) -> str:
    """The backend that `auto` stands for; an existing chain stays on the backend that it began on."""
    if spec.backend != "auto":
        return spec.backend
    if spec.urls:
        return "rpc"
    stored = read_genesis(folder)
    return stored.backend if stored else "anvil" if find_anvil() else "eth_tester"


def _open(spec: ChainSpec, backend: str, folder: Path, funded: list[str]) -> ChainNode:
    if backend == "rpc":
        return RpcNode(spec.urls, spec.chain_id)
    if backend == "anvil":
        return AnvilNode(folder, funded, spec.chain_id, spec.port)
    if backend != "eth_tester":
        raise ConfigError(f"chain.backend {backend} is no chain: choose eth_tester, anvil, rpc or auto")
    if spec.chain_id not in (0, ETH_TESTER_CHAIN_ID):
        raise WrongChainError(f"eth_tester serves chain id {ETH_TESTER_CHAIN_ID}, chain.chain_id is {spec.chain_id}")
    from flock_ray.chain.evm import EthTesterNode  # an EVM that only this backend needs

    return EthTesterNode(folder, funded)
