"""Deploys all contracts to a chain, wires them, and checks the result.

A deployment is a fixed list of transactions of one account, sent one at a time. The address book is written to disk
before each of them, with its hash, so that an interrupted deployment resumes at the chain's state: what is mined stays,
the rest is sent. At the end a TimelockController is the only admin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from eth_utils.address import (
    is_checksum_address,
    is_checksum_formatted_address,
    is_hex_address,
    to_checksum_address,
)

from flock_ray.chain.abi import contract
from flock_ray.chain.address_book import AddressBook, Entry
from flock_ray.chain.anvil import find_anvil
from flock_ray.chain.deployed import ADMIN_ROLE, GUARDIAN_ROLE
from flock_ray.chain.deployment_check import check_deployment
from flock_ray.chain.embedded import AnvilNode
from flock_ray.chain.fee_bumper import FeeBumper, fees_up_to
from flock_ray.chain.keys import Signer
from flock_ray.chain.node import ChainNode
from flock_ray.chain.rollup import data_fee
from flock_ray.chain.transactions import created_at, sign
from flock_ray.chain.values import MAX_FEE, NOBODY
from flock_ray.errors import DeploymentError, FundsError
from flock_ray.protocol.hashing import keccak

_REHEARSAL_GAS = 16_000_000
_TIMEOUT_OPTION = "chain.confirmation_timeout"
_MARGIN = 3  # a gas limit is the rehearsed gas plus a third: refunds hide up to a fifth of what a call needs
CREATED = (
    "TimelockController", "FlockToken", "EmissionController", "TaskRegistry", "RewardDistributor", "EpochSettlement",
    "StakeVault",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What an operator chooses, permanently; addresses are checksummed, amounts in wei, times in seconds.

    Attributes:
        supply: tokens that exist from the beginning.
        treasury: account that gets them, and every later emission.
        guardian: account that may disable roots that do not pay yet; empty: nobody, until the timelock appoints one.
        delay: of the timelock.
        proposers: accounts that schedule and cancel the timelock's operations.
        executors: accounts that execute them; the zero address stands for everybody.
        activation_delay: time until a settled root pays.
        absence_bps: part of its stake that an absent voter loses, in basis points.
        response_window: time in which a challenged voter may show its signature.
        grace: time between the two calls that abandon an epoch, or slash an absent voter.
        sink: account that gets what nobody may gain by a slash; nobody should have its key.
        evidence_window: time after a task's end in which its members' stakes stay locked.
        vault_epoch: length of an epoch of the vault.
        unbonding_epochs: vault epochs that stake takes to thaw.
        commission_delay: vault epochs before a new commission counts.
        min_delegation: smallest number of shares that a delegator holds; a share is worth a wei at first.
        daily: emission of a day of the first period.
        decay_bps: decrease of the daily emission from one period to the next, in basis points.
        period_days: days of a period.
        start: Unix time of the first day.
        epoch_multiple: daily emissions that one epoch may commit.
    """

    supply: int
    treasury: str
    guardian: str
    delay: int
    proposers: tuple[str, ...]
    executors: tuple[str, ...]
    activation_delay: int
    absence_bps: int
    response_window: int
    grace: int
    sink: str
    evidence_window: int
    vault_epoch: int
    unbonding_epochs: int
    commission_delay: int
    min_delegation: int
    daily: int
    decay_bps: int
    period_days: int
    start: int
    epoch_multiple: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The settings in an address book.

        Raises:
            TypeError: they are of another version.
        """
        fields: dict[str, Any] = {name: tuple(it) if isinstance(it, list) else it for name, it in values.items()}
        return cls(**fields)

    def as_json(self) -> dict[str, object]:
        """The settings as JSON values, as in the address book."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Step:
    """One transaction.

    Attributes:
        name: of the contract that it creates, or contract and function.
        to: address, empty for a creation.
        data: creation code with arguments, or the call.
    """

    name: str
    to: str
    data: bytes


@dataclass(frozen=True)
class Cost:
    """The cost of a step, as rehearsed.

    Attributes:
        name: of the step.
        gas: used.
        data_fee: of a rollup, wei.
    """

    name: str
    gas: int
    data_fee: int = 0


def plan(settings: Settings, deployer: str, at: dict[str, str]) -> list[Step]:
    """All transactions, in order.

    Args:
        settings: chosen.
        deployer: the account that sends them.
        at: address of each contract, known before it exists.
    """
    timelock, token, emission, task, distributor, settlement, vault = (at[name] for name in CREATED)
    s = settings
    schedule = (s.treasury, s.daily, s.decay_bps, s.period_days, s.start, s.epoch_multiple)
    first_admin = deployer if s.guardian else timelock
    created: list[tuple[object, ...]] = [
        (s.delay, s.proposers, s.executors, NOBODY),
        (s.supply,),
        (token, schedule),
        (token, emission, vault, distributor, settlement, s.evidence_window, s.sink, timelock),
        (token, task, settlement, vault, s.activation_delay, first_admin),
        (task, distributor, s.absence_bps, s.response_window, s.grace),
        (token, task, distributor, (s.vault_epoch, s.unbonding_epochs, s.commission_delay, s.min_delegation)),
    ]
    steps = [Step(name, "", contract(name).constructor(*args)) for name, args in zip(CREATED, created, strict=True)]
    calls: list[tuple[str, str, tuple[object, ...], str]] = [("FlockToken", "setMinter", (emission,), "")]
    if s.guardian:
        calls += [
            ("RewardDistributor", "grantRole", (GUARDIAN_ROLE, s.guardian), ": guardian"),
            ("RewardDistributor", "grantRole", (ADMIN_ROLE, timelock), ": timelock"),
            ("RewardDistributor", "renounceRole", (ADMIN_ROLE, deployer), ": deployer"),
        ]
    if s.supply and s.treasury != deployer:
        calls.append(("FlockToken", "transfer", (s.treasury, s.supply), ": treasury"))
    for name, function, args, note in calls:
        steps.append(Step(f"{name}.{function}{note}", at[name], contract(name).encode(function, *args)))
    return steps


def checksummed(address: str) -> str:
    """The address with its checksum; ValueError for anything else, or a checksum that is wrong."""
    wrong = is_checksum_formatted_address(address) and not is_checksum_address(address)
    if wrong or not is_hex_address(address):
        raise ValueError("not an address")
    return to_checksum_address(address)


def rehearse(settings: Settings, signer: Signer) -> list[Cost]:
    """Gas of every step, from a whole deployment on a temporary embedded chain."""
    with TemporaryDirectory(prefix="flock_ray_rehearsal_") as folder:
        node = _own_chain(Path(folder), signer.address)
        try:
            at = {name: created_at(signer.address, nonce) for nonce, name in enumerate(CREATED)}
            costs = []
            for nonce, step in enumerate(plan(settings, signer.address, at)):
                raw = sign(signer, node.chain_id, nonce, node.fees(), _REHEARSAL_GAS, step.to, step.data)
                costs.append(Cost(step.name, node.wait([node.send(raw, 0)], 60).gas_used))
            return costs
        finally:
            node.close()


def _own_chain(folder: Path, funded: str) -> ChainNode:
    if find_anvil():
        return AnvilNode(folder, [funded])
    from flock_ray.chain.evm import EthTesterNode  # an EVM that nothing else here needs

    return EthTesterNode(folder, [funded])


class Deployment:
    """A deployment on one chain by one account, new or resumed."""

    def __init__(
        self,
        node: ChainNode,
        signer: Signer,
        settings: Settings,
        book: AddressBook,
        timeout: float,
        max_fee: int = MAX_FEE,
    ) -> None:
        """Resume at the state in `book`.

        Args:
            node: the chain.
            signer: the account that sends.
            settings: chosen.
            book: of this deployment.
            timeout: seconds to wait for a receipt.
            max_fee: most to pay, wei a gas.
        """
        self._node = node
        self._signer = signer
        self._settings = settings
        self._book = book
        self._timeout = timeout
        self._max_fee = max_fee
        self.recover()

    def recover(self) -> None:
        """Add what was mined since the book was last written; in memory only."""
        for name, entry in self._book.entries.items():
            if not entry.tx:
                self._settle(name, entry)

    def _finish(self) -> None:
        """Wait for transactions that an earlier process sent and that are not mined yet."""
        for name, entry in self._book.entries.items():
            if not entry.tx and (raws := list(filter(None, map(self._pending_transaction, entry.attempts)))):
                self._wait_until_mined(name, entry, raws)
        self.recover()  # what was mined since this process started, and so is neither pending nor in the book

    def _pending_transaction(self, attempt: str) -> bytes | None:
        """The signed transaction of that hash if it is pending, rebuilt from its fields; else None."""
        tx_hash = bytes.fromhex(attempt[2:])
        transaction = self._node.transaction(tx_hash)
        if transaction is None or self._node.receipt(tx_hash) is not None:
            return None
        fees = transaction["maxFeePerGas"], transaction["maxPriorityFeePerGas"]
        to, data = transaction.get("to") or "", bytes(transaction["input"])
        raw = sign(self._signer, self._node.chain_id, transaction["nonce"], fees, transaction["gas"], to, data)
        return raw if keccak(raw) == tx_hash else None

    def missing(self) -> list[str]:
        """Names of the steps that are still to be sent."""
        names = [step.name for step in plan(self._settings, self._signer.address, self.addresses())]
        return [name for name in names if not self._done(name)]

    def addresses(self) -> dict[str, str]:
        """Address of each contract: where it was deployed, else where the next transactions will put it."""
        nonce = self._node.nonce(self._signer.address)
        left = [name for name in CREATED if not self._done(name)]
        ahead = {name: created_at(self._signer.address, nonce + i) for i, name in enumerate(left)}
        return {name: self._book.entries[name].address if name not in ahead else ahead[name] for name in CREATED}

    def _done(self, name: str) -> bool:
        entry = self._book.entries.get(name)
        return entry is not None and bool(entry.tx)

    def costs(self) -> list[Cost]:
        """Gas and data fees of what is missing."""
        missing = set(self.missing())
        if not missing:
            return []
        node, signer = self._node, self._signer
        steps = {step.name: step for step in plan(self._settings, signer.address, self.addresses())}

        def with_data_fee(cost: Cost) -> Cost:
            step = steps[cost.name]
            raw = sign(signer, node.chain_id, 0, node.fees(), cost.gas, step.to, step.data)
            return replace(cost, data_fee=data_fee(node, raw, signer.address))

        return [with_data_fee(cost) for cost in rehearse(self._settings, signer) if cost.name in missing]

    def execute(self, emit: Callable[[str], None]) -> None:
        """Send the missing transactions one after the other; `emit` is called with a line of text for each.

        Raises:
            FundsError: the account cannot pay for all of them; nothing is sent then.
            DeploymentError: deployed contracts expect the next ones at addresses that they can no longer get.
            ChainError: a transaction reverted or was not mined in time.
        """
        self._finish()
        bill = self.costs()
        costs = {cost.name: cost.gas + cost.gas // _MARGIN for cost in bill}
        max_fee, _ = fees_up_to(self._node, self._max_fee)
        needs = sum(costs.values()) * max_fee + sum(cost.data_fee for cost in bill)
        has = self._node.balance(self._signer.address)
        if costs and has < needs:
            raise FundsError(f"{self._signer.address} has {has} wei for gas, needs {needs} wei")
        for name, gas in costs.items():
            entry = self._send(name, gas)
            where = f" at {entry.address}" if entry.address else ""
            emit(f"{name}{where}: block {entry.block}, {entry.gas_used} gas")
        if self._book.changed:
            self._book.save()

    def _send(self, name: str, gas: int) -> Entry:
        book, sender = self._book, self._signer.address
        nonce = self._node.nonce(sender)
        at = self.addresses()
        if name == "TaskRegistry":
            book.reserved = {later: at[later] for later in CREATED[CREATED.index(name) + 1 :]}
        if book.reserved.get(name, at.get(name)) != at.get(name):
            raise DeploymentError(
                f"{sender} sent another transaction in the middle of the deployment, so {name} cannot come to"
                f" {book.reserved[name]}, where the others expect it; deploy anew with another book"
            )
        step = next(step for step in plan(self._settings, sender, at) if step.name == name)
        fees = fees_up_to(self._node, self._max_fee)
        raw = sign(self._signer, self._node.chain_id, nonce, fees, gas, step.to, step.data)
        entry = book.entries.setdefault(name, Entry())
        self._wait_until_mined(name, entry, [raw])
        return entry

    def _wait_until_mined(self, name: str, entry: Entry, raws: list[bytes]) -> None:
        """Wait until one of these transactions of one nonce, or a replacement, is mined; each enters the book first."""
        bumper = FeeBumper(self._node, self._signer, self._max_fee)
        hashes = [keccak(raw) for raw in raws]

        def submit(raw: bytes | None) -> None:
            if raw is None:
                return
            if raw not in raws:
                raws.append(raw)
                hashes.append(keccak(raw))
            entry.attempts = list(dict.fromkeys([*entry.attempts, "0x" + keccak(raw).hex()]))
            self._book.save()
            bumper.send(raw, 0)

        submit(raws[-1])
        self._node.wait(hashes, self._timeout, lambda: submit(bumper.next(raws)), _TIMEOUT_OPTION)
        self._settle(name, entry)
        self._book.save()

    def _settle(self, name: str, entry: Entry) -> None:
        """Complete an entry with the receipt of its mined attempt, if there is one."""
        for attempt in entry.attempts:
            tx_hash = bytes.fromhex(attempt[2:])
            mined = self._node.receipt(tx_hash)
            if mined is None or not mined[1]:
                continue
            receipt = mined[0]
            entry.tx, entry.block, entry.gas_used = attempt, receipt.block, receipt.gas_used
            if name in CREATED:
                entry.address = to_checksum_address(str(receipt.contract_address))
                entry.code_hash = "0x" + keccak(self._node.code(entry.address)).hex()
            self._book.changed = True

    def check(self) -> None:
        """Compare the chain with artifacts, settings and book; see `check_deployment`.

        Raises:
            DeploymentError: something differs; the text names it.
        """
        steps = plan(self._settings, self._signer.address, self.addresses())
        check_deployment(self._node, self._settings, self._book, steps)
