"""`flock-ray gateway …` and `flock-ray deposit …`: stakes of gateways and deposits of users in `UsageSettlement`."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

import requests

from flock_ray.chain import usage_calls
from flock_ray.chain.deployment import checksummed
from flock_ray.chain.eip712 import cap_digest, usage_domain
from flock_ray.chain.usage_reader import UsageBalance, UsageReader
from flock_ray.chain.words import format_tokens, utc
from flock_ray.commands.connection import Connection, connected
from flock_ray.errors import ChainError, ConfigError, KeyMissingError
from flock_ray.protocol.encoding import from_hex, to_hex
from flock_ray.protocol.receipt import Cap

API_KEY = "FLOCK_RAY_KEY"
"""Variable with the secret of an API key."""
_SECONDS = 60.0  # that a gateway may take to answer


def _opened(chain: Connection, asked: Namespace) -> UsageReader:
    """The contract of usage that a command names.

    Raises:
        ChainError: it is none, or takes another token than the other contracts.
    """
    reader = UsageReader(chain.node, asked.usage, chain.account if "key" in asked else asked.account)
    if reader.token != chain.at.token:
        raise ChainError(f"the UsageSettlement at {reader.at} takes the token {reader.token}, not {chain.at.token}")
    return reader


def _facts(balance: UsageBalance) -> dict[str, object]:
    return {"amount_wei": balance.amount, "requested_wei": balance.requested, "ready_at": balance.ready_at}


def _asked_back(chain: Connection, sent: Any, what: str, balance: UsageBalance, then: str) -> None:
    told = f"Asked for {format_tokens(balance.requested)} tokens of the {what}"
    chain.output.done(sent, told, f"From {utc(balance.ready_at)} on: {then}", _facts(balance))


# Gateways


def show_gateway(asked: Namespace) -> None:
    """A gateway's stake, and the least that lets it settle."""
    with connected(asked) as chain:
        reader = _opened(chain, asked)
        stake, least = reader.stake(asked.account), reader.settings().min_stake
        facts = {"gateway": asked.account, **_facts(stake), "min_stake_wei": least}
        chain.output.facts({**facts, "may_settle": stake.standing >= least})


def stake(asked: Namespace) -> None:
    """Add to the account's stake as a gateway."""
    with connected(asked) as chain:
        reader = _opened(chain, asked)
        amount = chain.wallet(chain.account) if asked.all else asked.amount
        if sent := chain.send(*chain.with_approval(usage_calls.stake(reader.at, amount), amount)):
            held = reader.stake(chain.account)
            what = f"{format_tokens(held.amount)} tokens; next: flock-ray gateway receipt-key ADDRESS"
            chain.output.done(sent, f"Staked {format_tokens(amount)} tokens as a gateway", what, _facts(held))


def unstake(asked: Namespace) -> None:
    """Ask for stake back."""
    with connected(asked) as chain:
        reader = _opened(chain, asked)
        amount = reader.stake(chain.account).amount if asked.all else asked.amount
        if sent := chain.send(usage_calls.request_unstake(reader.at, amount)):
            _asked_back(chain, sent, "stake", reader.stake(chain.account), "flock-ray gateway withdraw")


def withdraw_stake(asked: Namespace) -> None:
    """Take out the stake that was asked for."""
    with connected(asked) as chain:
        reader = _opened(chain, asked)
        asked_for = reader.stake(chain.account).requested
        if sent := chain.send(usage_calls.unstake(reader.at)):
            held = reader.stake(chain.account)
            chain.output.done(sent, f"Took out {format_tokens(asked_for)} tokens",
                              f"{format_tokens(held.amount)} tokens are staked", _facts(held))  # fmt: skip


def receipt_key(asked: Namespace) -> None:
    """Let a key sign receipts for the account, or no longer."""
    with connected(asked) as chain:
        reader = _opened(chain, asked)
        if sent := chain.send(usage_calls.set_receipt_key(reader.at, asked.receipt_key, not asked.revoke)):
            until = reader.receipt_key_until(chain.account, asked.receipt_key)
            done = "no longer signs" if asked.revoke else "signs"
            chain.output.done(sent, f"{asked.receipt_key} {done} receipts of {chain.account}",
                              f"Its receipts count until {utc(until)}" if asked.revoke else "Its receipts count",
                              {"receipt_key": asked.receipt_key, "counts_until": until})  # fmt: skip


# Users


def show_deposit(asked: Namespace) -> None:
    """A deposit at a gateway."""
    with connected(asked) as chain:
        balance = _opened(chain, asked).deposit(asked.gateway, asked.account)
        lent = {"standing_wei": balance.standing}
        chain.output.facts({"gateway": asked.gateway, "account": asked.account, **_facts(balance), **lent})


def deposit(asked: Namespace) -> None:
    """Deposit tokens at a gateway, for the account that sends or another one."""
    with connected(asked) as chain:
        reader, gateway = _opened(chain, asked), asked.gateway
        amount = chain.wallet(chain.account) if asked.all else asked.amount
        account = asked.account or chain.account
        call = usage_calls.deposit(reader.at, gateway, account, amount)
        if sent := chain.send(*chain.with_approval(call, amount)):
            held = reader.deposit(gateway, account)
            what = f"{account} has {format_tokens(held.amount)} tokens there; next: flock-ray deposit cap"
            chain.output.done(sent, f"Deposited {format_tokens(amount)} tokens at {gateway}", what, _facts(held))


def request(asked: Namespace) -> None:
    """Ask for a deposit back."""
    with connected(asked) as chain:
        reader, gateway = _opened(chain, asked), asked.gateway
        amount = reader.deposit(gateway, chain.account).amount if asked.all else asked.amount
        if sent := chain.send(usage_calls.request_withdrawal(reader.at, gateway, amount)):
            held = reader.deposit(gateway, chain.account)
            _asked_back(chain, sent, "deposit", held, f"flock-ray deposit withdraw {gateway}")


def withdraw(asked: Namespace) -> None:
    """Take out the deposit that was asked for."""
    with connected(asked) as chain:
        reader, gateway = _opened(chain, asked), asked.gateway
        before = reader.deposit(gateway, chain.account)
        if sent := chain.send(usage_calls.withdraw(reader.at, gateway)):
            held = reader.deposit(gateway, chain.account)
            chain.output.done(sent, f"Took out {format_tokens(before.amount - held.amount)} tokens",
                              f"{format_tokens(held.amount)} tokens stay there", _facts(held))  # fmt: skip


def cap(asked: Namespace) -> None:
    """Sign the most that a gateway may ever charge under its price book, and hand it in; nothing is sent to a chain."""
    with connected(asked) as chain:
        reader = _opened(chain, asked)
        told = _gateway(asked.url, "GET", params={"cumulative": asked.amount})
        try:
            message = told["typed_data"]["message"]
            account, gateway = (checksummed(message[name]) for name in ("account", "gateway"))
            price_book, expiry = from_hex(message["priceBook"]), int(message["expiry"])
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{asked.url} says no cap to sign; is it a gateway of flock_ray?") from None
        for what, named, own in (("account", account, chain.account), ("gateway", gateway, asked.gateway)):
            if named != own:
                raise ConfigError(f"{asked.url} says that the {what} is {named}, not {own}: nothing is signed")
        signed = Cap(bytes.fromhex(account[2:]), bytes.fromhex(gateway[2:]), price_book, asked.amount, expiry)
        facts = {"gateway": gateway, "account": account, "price_book": to_hex(price_book),
                 "cumulative_wei": asked.amount, "expiry": expiry}  # fmt: skip
        if chain.dry_run:
            return chain.output.facts({"dry_run": True, **facts})
        digest = cap_digest(usage_domain(chain.node.chain_id, reader.at), signed)
        body = {"price_book": to_hex(price_book), "cumulative": asked.amount, "expiry": expiry,
                "signature": to_hex(chain.signer.sign_digest(digest))}  # fmt: skip
        _gateway(asked.url, "POST", json=body)
        chain.output.facts(facts)


def _gateway(url: str, method: str, **options: Any) -> dict[str, Any]:
    """What a gateway answers on `/v1/caps`.

    Raises:
        KeyMissingError: the environment has no API key.
        ConfigError: it does not answer, or refuses.
    """
    secret = os.environ.get(API_KEY)
    if not secret:
        raise KeyMissingError(f"set {API_KEY} to the secret of an API key of the account")
    place = f"{url.rstrip('/')}/v1/caps"
    try:
        answer = requests.request(
            method, place, headers={"Authorization": f"Bearer {secret}"}, timeout=_SECONDS, **options
        )
        told = answer.json()
    except (requests.RequestException, ValueError):
        raise ConfigError(f"{place} does not answer as a gateway does") from None
    if not answer.ok or not isinstance(told, dict):
        reason = told.get("error", {}).get("message", "") if isinstance(told, dict) else ""
        raise ConfigError(f"{place} refuses ({answer.status_code}): {reason}")
    return told
