"""Signed transactions of the creator and the members, made where the key lives, without a network.

Gas limits, fees and nonces are explicit, so the broadcaster of the bytes cannot choose any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

import rlp  # type: ignore[import-untyped]
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from flock_ray.chain.abi import Contract, contract
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.keys import Signer
from flock_ray.chain.merkle import MerkleTree
from flock_ray.chain.values import (
    ABSENCE_BPS,
    ACTIVATION_DELAY,
    COMMISSION_DELAY,
    DAILY_EMISSION,
    DECAY_BPS,
    EPOCH_MULTIPLE,
    EVIDENCE_WINDOW,
    GRACE,
    MIN_DELEGATION,
    PERIOD_DAYS,
    RESPONSE_WINDOW,
    SINK,
    TOKEN,
    UNBONDING_EPOCHS,
    VAULT_EPOCH,
    Addresses,
    TaskTerms,
    TxContext,
)
from flock_ray.chain.words import format_tokens
from flock_ray.errors import FundsError
from flock_ray.protocol.hashing import keccak

Table = Mapping[bytes, tuple[str, int]]
MAX_CLAIMS = 100  # accounts that one transaction pays
MAX_SLOTS = 256  # per member (TaskTerms.MAX_SLOTS)

_ENVELOPE = 200  # bytes of a transaction besides its data, at most; measured: 142

# Gas limits: the most that was measured for a transaction, plus about a quarter. Unused gas costs nothing.
_DEPLOY_GAS = {
    "FlockToken": 2_100_000,
    "EmissionController": 1_000_000,
    "TaskRegistry": 6_500_000,
    "RewardDistributor": 3_300_000,
    "EpochSettlement": 5_700_000,
    "StakeVault": 4_500_000,
}
_SET_GAS = 65_000
_TRANSFER_GAS = 75_000
_APPROVE_GAS = 60_000
_CREATE_GAS = 400_000
_STAKE_GAS = 150_000
_JOIN_GAS, _SLOT_GAS = 230_000, 28_000
_START_GAS = 120_000
_RESIGN_GAS = 130_000
_CLAIM_GAS, _PROOF_GAS = 130_000, 2_500
_ACCOUNT_GAS = 75_000
_POOL_GAS = 110_000
_RELEASE_GAS = 80_000
_SETTLE_GAS, _SEAT_GAS, _SLASH_GAS, _PAY_OUT_GAS = 220_000, 16_000, 110_000, 130_000
_CHANGE_GAS, _LOOK_GAS = 50_000, 3_000  # of a slot that changes, and of a change that is looked at


class _Batch:
    """Transactions of one account in a row: counts nonces and checks that the account can pay for all of them."""

    def __init__(self, signer: Signer, ctx: TxContext) -> None:
        self._signer = signer
        self._ctx = ctx
        self._needed = 0  # wei
        self.raws: list[bytes] = []

    def add(self, to: str, data: bytes, gas: int) -> None:
        """Append a transaction; `to` is empty for a deployment."""
        ctx = self._ctx
        self._needed += gas * ctx.max_fee_per_gas + ctx.data_fee + ctx.data_fee_per_byte * (len(data) + _ENVELOPE)
        if self._needed > ctx.gas_balance:
            raise FundsError(f"{self._signer.address} has {ctx.gas_balance} wei for gas, needs {self._needed} wei")
        fees = ctx.max_fee_per_gas, ctx.max_priority_fee_per_gas
        self.raws.append(sign(self._signer, ctx.chain_id, ctx.nonce + len(self.raws), fees, gas, to, data))

    def deploy(self, compiled: Contract, *args: object) -> str:
        """Append a deployment and return the address that it will have."""
        address = self.next_address(0)
        self.add("", compiled.constructor(*args), _DEPLOY_GAS[compiled.name])
        return address

    def next_address(self, ahead: int) -> str:
        """Address of a contract that is deployed after `ahead` more transactions."""
        return created_at(self._signer.address, self._ctx.nonce + len(self.raws) + ahead)

    def pay(self, spender: str, amount: int, purpose: str) -> None:
        """Append the approval of `amount` wei of tokens to a contract."""
        self.check_tokens(amount, purpose)
        self.add(self._ctx.token, contract("FlockToken").encode("approve", spender, amount), _APPROVE_GAS)

    def stake(self, amount: int) -> None:
        """Append what moves the part of `amount` wei that is not free there into the vault."""
        missing = amount - self._ctx.free_stake
        if missing > 0:
            self.pay(self._ctx.vault, missing, "the stake")
            self.add(self._ctx.vault, contract("StakeVault").encode("stake", missing), _STAKE_GAS)

    def check_tokens(self, amount: int, purpose: str) -> None:
        """Raise FundsError unless the account has `amount` wei of tokens."""
        if amount > self._ctx.token_balance:
            has, needs = format_tokens(self._ctx.token_balance), format_tokens(amount)
            raise FundsError(f"{self._signer.address} has {has} tokens, needs {needs} for {purpose}")


def sign(signer: Signer, chain_id: int, nonce: int, fees: tuple[int, int], gas: int, to: str, data: bytes) -> bytes:
    """A signed EIP-1559 transaction that moves no coin; `fees` is (max_fee, tip), `to` empty for a creation."""
    fields = {
        "type": 2, "chainId": chain_id, "nonce": nonce, "gas": gas, "to": to, "value": 0, "data": data,
        "maxFeePerGas": fees[0], "maxPriorityFeePerGas": fees[1],
    }  # fmt: skip
    return signer.sign_transaction(fields)


def created_at(account: str, nonce: int) -> str:
    """Address of the contract that an account's transaction creates."""
    return to_checksum_address(keccak(rlp.encode([bytes.fromhex(account[2:]), nonce]))[12:])


def deploy(signer: Signer, ctx: TxContext, supply: int, start: int) -> tuple[list[bytes], Addresses]:
    """Deploy the contracts, with permanent references to each other; the signer is admin and treasury.

    Args:
        signer: the deployer.
        ctx: its context.
        supply: tokens that it begins with, wei; more come by the emission schedule only.
        start: Unix time of the schedule's first day.

    Returns:
        The transactions, and the addresses that the contracts will have.
    """
    batch = _Batch(signer, ctx)
    schedule = (signer.address, DAILY_EMISSION * TOKEN, DECAY_BPS, PERIOD_DAYS, start, EPOCH_MULTIPLE)
    token = batch.deploy(contract("FlockToken"), supply)
    emission = batch.deploy(contract("EmissionController"), token, schedule)
    distributor, settlement, vault = map(batch.next_address, (1, 2, 3))
    task = batch.deploy(
        contract("TaskRegistry"), token, emission, vault, distributor, settlement, EVIDENCE_WINDOW, SINK,
        signer.address,
    )  # fmt: skip
    batch.deploy(contract("RewardDistributor"), token, task, settlement, vault, ACTIVATION_DELAY, signer.address)
    batch.deploy(contract("EpochSettlement"), task, distributor, ABSENCE_BPS, RESPONSE_WINDOW, GRACE)
    unbonding = (VAULT_EPOCH, UNBONDING_EPOCHS, COMMISSION_DELAY, MIN_DELEGATION)
    batch.deploy(contract("StakeVault"), token, task, distributor, unbonding)
    batch.add(token, contract("FlockToken").encode("setMinter", emission), _SET_GAS)
    return batch.raws, Addresses(token, task, settlement, distributor, vault)


def transfer(signer: Signer, ctx: TxContext, to: Sequence[tuple[str, int]]) -> list[bytes]:
    """Give tokens away, (address, wei) each.

    Raises:
        FundsError: too few tokens, or too little gas money.
    """
    batch = _Batch(signer, ctx)
    batch.check_tokens(sum(amount for _, amount in to), "the others")
    for address, amount in to:
        batch.add(ctx.token, contract("FlockToken").encode("transfer", address, amount), _TRANSFER_GAS)
    return batch.raws


def create_task(signer: Signer, ctx: TxContext, terms: TaskTerms, seed: bytes, node_stake: int = 0) -> list[bytes]:
    """Create a task, whose id is `terms.task_id(signer.address, seed, node_stake)`, and escrow its pool.

    Args:
        signer: the creator.
        ctx: its context.
        terms: of the task.
        seed: first seed, with `terms.fixed_genesis`; tells apart tasks of one creator under the same terms.
        node_stake: least stake of a node, wei, which makes the task a contest; 0: it takes no nodes.

    Raises:
        FundsError: too few tokens for the pool, or too little gas money.
    """
    batch = _Batch(signer, ctx)
    batch.pay(ctx.task, terms.pool, "the task's pool")
    registry = contract("TaskRegistry")
    if node_stake:
        data = registry.encode("createContest", astuple(terms), seed, node_stake)
    else:
        data = registry.encode("createTask", astuple(terms), seed)
    batch.add(ctx.task, data, _CREATE_GAS)
    return batch.raws


def join(
    signer: Signer, ctx: TxContext, task: bytes, amount: int, tip: bytes, expected: bytes, slots: int = MAX_SLOTS
) -> list[bytes]:
    """Join a task with a stake, after moving the missing part of it into the vault.

    In a running task the member counts from `roster.due_epoch` on.

    Args:
        signer: the member.
        ctx: its context.
        task: id.
        amount: stake, wei; what is free in the vault counts towards it, whoever deposited it.
        tip: of the member's hash chain.
        expected: digest of creator and terms (`TaskTerms.digest`); the contract refuses any other task.
        slots: most slots that the stake can buy; bounds the gas.

    Raises:
        FundsError: too few tokens for the stake, or too little gas money.
    """
    batch = _Batch(signer, ctx)
    batch.stake(amount)
    batch.add(
        ctx.task, contract("TaskRegistry").encode("join", task, amount, tip, expected), _JOIN_GAS + slots * _SLOT_GAS
    )
    return batch.raws


def enter(signer: Signer, ctx: TxContext, task: bytes, amount: int, expected: bytes) -> list[bytes]:
    """Enter a running contest as a node, at once, after moving the missing part of the stake into the vault.

    Args:
        signer: the node.
        ctx: its context.
        task: id.
        amount: stake, wei; what is free in the vault counts towards it, whoever deposited it.
        expected: digest of creator, terms and least stake of a node (`TaskView.digest`), as in `join`.

    Raises:
        FundsError: too few tokens for the stake, or too little gas money.
    """
    batch = _Batch(signer, ctx)
    batch.stake(amount)
    batch.add(ctx.task, contract("TaskRegistry").encode("enter", task, amount, expected), _JOIN_GAS)
    return batch.raws


def resign(signer: Signer, ctx: TxContext, task: bytes) -> list[bytes]:
    """Leave a running task from `roster.due_epoch` on; the stake is released an evidence window after that.

    A node that asked to is let go by the first `release` after that epoch is over.
    """
    batch = _Batch(signer, ctx)
    batch.add(ctx.task, contract("TaskRegistry").encode("resign", task), _RESIGN_GAS)
    return batch.raws


def start(signer: Signer, ctx: TxContext, task: bytes) -> list[bytes]:
    """Fix the members; with `fixed_genesis` begin the first epoch."""
    batch = _Batch(signer, ctx)
    batch.add(ctx.task, contract("TaskRegistry").encode("start", task), _START_GAS)
    return batch.raws


def open_task(signer: Signer, ctx: TxContext, task: bytes) -> list[bytes]:
    """Begin the first epoch under the seed that the hash of `TaskView.seed_block` makes."""
    batch = _Batch(signer, ctx)
    batch.add(ctx.task, contract("TaskRegistry").encode("open", task), _START_GAS)
    return batch.raws


def claim(
    signer: Signer,
    ctx: TxContext,
    task: bytes,
    account: str,
    cumulative: int,
    proof: Sequence[bytes],
    to_pool: bool = False,
) -> list[bytes]:
    """Pay `account` what it has earned and was not paid yet.

    Args:
        signer: anybody; pays the gas.
        ctx: its context.
        task: id.
        account: the account to pay.
        cumulative: all that it has earned, wei, as in the Merkle tree.
        proof: of its leaf.
        to_pool: pay its pool in the vault, for an account that joined with delegators.
    """
    batch = _Batch(signer, ctx)
    function = "claimToPool" if to_pool else "claim"
    data = contract("RewardDistributor").encode(function, task, account, cumulative, list(proof))
    batch.add(ctx.distributor, data, _CLAIM_GAS + len(proof) * _PROOF_GAS + to_pool * _POOL_GAS)
    return batch.raws


def claim_many(signer: Signer, ctx: TxContext, task: bytes, tree: MerkleTree, table: Table) -> list[bytes]:
    """Pay everybody in a table of rewards who is not paid through a pool; `MAX_CLAIMS` accounts a transaction.

    Args:
        signer: anybody; pays the gas.
        ctx: its context.
        task: id.
        tree: of the whole table.
        table: {leaf: (account, all that it has earned in wei)}.
    """
    batch, leaves = _Batch(signer, ctx), sorted(table)
    for first in range(0, len(leaves), MAX_CLAIMS):
        ordered, proof, flags = tree.multiproof(leaves[first : first + MAX_CLAIMS])
        accounts, amounts = zip(*(table[leaf] for leaf in ordered), strict=True)
        data = contract("RewardDistributor").encode("claimMany", task, accounts, amounts, proof, flags)
        batch.add(ctx.distributor, data, _CLAIM_GAS + len(ordered) * _ACCOUNT_GAS + len(proof) * _PROOF_GAS)
    return batch.raws


def release(signer: Signer, ctx: TxContext, task: bytes, account: str) -> list[bytes]:
    """Release the rest of an account's stake from a task that is closed, or that it left long enough ago.

    It stays in the vault, free for another task.
    """
    batch = _Batch(signer, ctx)
    batch.add(ctx.task, contract("TaskRegistry").encode("release", task, account), _RELEASE_GAS)
    return batch.raws


def settle_call(report: Report, seats: int, signatures: bytes) -> bytes:
    """Data of the call that settles an epoch.

    Args:
        report: of the epoch.
        seats: bitmap of the voter seats that signed.
        signatures: their EIP-2098 signatures, 64 bytes each, in the order of seats.
    """
    return contract("EpochSettlement").encode("settle", astuple(report), seats, signatures)


def settle_gas(report: Report, seats: int, work: tuple[int, int] = (0, 0)) -> int:
    """Gas limit of that call; `work` is that of members that join or leave (`Roster.work`)."""
    changed_slots, looked_at = work
    slashes = len(report.slashes) * _SLASH_GAS + bool(report.slashes) * _PAY_OUT_GAS
    changes = changed_slots * _CHANGE_GAS + looked_at * _LOOK_GAS
    return _SETTLE_GAS + seats.bit_length() * _SEAT_GAS + slashes + changes


def settle(signer: Signer, ctx: TxContext, report: Report, seats: int, signatures: bytes) -> bytes:
    """The relayer's transaction that settles an epoch; see `settle_call`."""
    return call(signer, ctx, ctx.settlement, settle_call(report, seats, signatures), settle_gas(report, seats))


def call(signer: Signer, ctx: TxContext, to: str, data: bytes, gas: int) -> bytes:
    """A transaction that calls a contract with `data`."""
    batch = _Batch(signer, ctx)
    batch.add(to, data, gas)
    return batch.raws[0]


def outbid(signer: Signer, raw: bytes, max_fee: int, tip: int) -> bytes:
    """The same transaction with higher fees.

    Args:
        signer: its sender.
        raw: signed transaction that is not mined.
        max_fee: the currently adequate fee, wei a gas.
        tip: the currently adequate tip, wei a gas.

    Returns:
        A signed transaction with at least 12.5 % more of both: nodes accept no replacement for less.
    """
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    kept = {key: fields[key] for key in ("type", "chainId", "nonce", "gas", "to", "value", "data")}
    raised = {key: -(-9 * fields[key] // 8) for key in ("maxFeePerGas", "maxPriorityFeePerGas")}
    kept["maxFeePerGas"] = max(max_fee, raised["maxFeePerGas"])
    kept["maxPriorityFeePerGas"] = max(tip, raised["maxPriorityFeePerGas"])
    return signer.sign_transaction(kept)


def max_fee_of(raw: bytes) -> int:
    """Most that a signed transaction pays, wei a gas."""
    return int(TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["maxFeePerGas"])
