"""Calls of `UsageSettlement` by users, gateways and anybody. `at` is the contract's address, units are wei."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from flock_ray.chain.calls import Call
from flock_ray.chain.keys import compact
from flock_ray.chain.usage import SignedCap, SignedReceipt, UsageBatch, account_text
from flock_ray.protocol.receipt import Receipt

_DEPOSIT_GAS = 110_000  # measured: 82,000
_STAKE_GAS = 110_000  # measured: 82,000


def _call(at: str, function: str, *args: object, gas: int = 0) -> Call:
    return Call("UsageSettlement", at, function, args, gas)


# Users


def deposit(at: str, gateway: str, account: str, amount: int) -> Call:
    """Deposit for what an account uses at a gateway; the contract must be approved for it."""
    return _call(at, "deposit", gateway, account, amount, gas=_DEPOSIT_GAS)


def request_withdrawal(at: str, gateway: str, amount: int) -> Call:
    """Ask for so much of the caller's deposit, in the place of what it asked for before; 0 asks for nothing."""
    return _call(at, "requestWithdrawal", gateway, amount)


def withdraw(at: str, gateway: str) -> Call:
    """Take out what was asked for, after the withdrawal delay."""
    return _call(at, "withdraw", gateway)


# Gateways


def stake(at: str, amount: int) -> Call:
    """Add to the caller's stake as a gateway; the contract must be approved for it."""
    return _call(at, "stake", amount, gas=_STAKE_GAS)


def request_unstake(at: str, amount: int) -> Call:
    """Ask for so much of the caller's stake, in the place of what it asked for before; 0 asks for nothing."""
    return _call(at, "requestUnstake", amount)


def unstake(at: str) -> Call:
    """Take out what was asked for, after the withdrawal delay."""
    return _call(at, "unstake")


def set_receipt_key(at: str, key: str, active: bool) -> Call:
    """Let a key sign the caller's receipts, or no longer."""
    return _call(at, "setReceiptKey", key, active)


def settle_batch(batch: UsageBatch) -> Call:
    """Settle a batch of the caller's."""
    roots = batch.charges.root, batch.payouts.root
    return _call(batch.domain.contract, "settleBatch", batch.price_book, batch.number, *roots, batch.tables.total)


# Anybody


def collect(batch: UsageBatch, caps: Mapping[bytes, SignedCap], accounts: Sequence[bytes]) -> list[Call]:
    """Take what accounts were charged from their deposits; a call for each 100 of them.

    Args:
        batch: active, the latest or an earlier one.
        caps: {account: its cap under this gateway and price book}.
        accounts: that have charges and caps.
    """
    place = account_text(batch.gateway), batch.price_book, batch.number
    return [_call(batch.domain.contract, "collect", *place, *rest) for rest in batch.collections(caps, accounts)]


def claim(batch: UsageBatch, account: bytes) -> Call:
    """Pay an account what a full batch, and all before it, give it."""
    return _call(batch.domain.contract, "claim", *_payee(batch, account), _payout(batch, account))


def claim_short(before: UsageBatch | None, batch: UsageBatch, account: bytes) -> Call:
    """Pay an account its part of the batch that is filling; `before` is the batch before it, None for the first."""
    had = before is not None and account in before.tables.payouts
    earlier = _payout(before, account) if before is not None and had else (0, [])
    return _call(batch.domain.contract, "claimShort", *_payee(batch, account), earlier, _payout(batch, account))


def challenge_charge(batch: UsageBatch, account: bytes) -> Call:
    """Ask that a charge be collected."""
    charged = batch.tables.charges[account], batch.charges.proof(account)
    return _call(batch.domain.contract, "challengeCharge", *_payee(batch, account), *charged)


def slash_uncollected(batch: UsageBatch, account: bytes) -> Call:
    """Slash the gateway for a challenged charge that was not collected in time."""
    who = account_text(batch.gateway), batch.price_book, account_text(account)
    return _call(batch.domain.contract, "slashUncollected", *who, batch.tables.charges[account])


def slash_receipts(at: str, first: SignedReceipt, second: SignedReceipt) -> Call:
    """Slash a gateway that gave one request two receipts."""
    keys = [account_text(first.key), account_text(second.key)]
    signatures = compact(first.signature) + compact(second.signature)
    return _call(at, "slashReceipts", _receipt(first.receipt), _receipt(second.receipt), keys, signatures)


def void(batch: UsageBatch) -> Call:
    """The guardian voids a batch that is not active yet, and those after it."""
    return _call(batch.domain.contract, "void", account_text(batch.gateway), batch.price_book, batch.number)


def _payee(batch: UsageBatch, account: bytes) -> tuple[object, ...]:
    return account_text(batch.gateway), batch.price_book, batch.number, account_text(account)


def _payout(batch: UsageBatch, account: bytes) -> tuple[int, list[bytes]]:
    return batch.tables.payouts[account], batch.payouts.proof(account)


def _receipt(receipt: Receipt) -> tuple[object, ...]:
    values = astuple(receipt)
    return tuple(account_text(value) if isinstance(value, bytes) and len(value) == 20 else value for value in values)
