"""`flock-ray key …`: keys of a gateway's API."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from flock_ray.commands.output import Output
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import Key, KeyTerms
from flock_ray.protocol.receipt import MAX_AMOUNT

_DAY = 86_400
_UNBOUNDED = MAX_AMOUNT - 1


def create(asked: Namespace) -> None:
    """Make a key; its secret is shown here and nowhere else."""
    given = {
        "requests_per_minute": asked.requests_per_minute, "tokens_per_minute": asked.tokens_per_minute,
        "concurrent": asked.concurrent, "budget": asked.budget,
        "expires": int(time.time()) + asked.days * _DAY if asked.days else None,
    }  # fmt: skip
    chosen = {name: value for name, value in given.items() if value is not None}
    terms = KeyTerms(bytes.fromhex(asked.account[2:]), tuple(asked.model), **chosen)
    with Ledger.open(asked.ledger) as ledger:
        key, secret = ledger.keys.create(terms, asked.label)
    Output(asked.json).facts({"secret": secret, **_facts(key)})


def list_keys(asked: Namespace) -> None:
    """List keys, without their secrets, which nobody has."""
    account = bytes.fromhex(asked.account[2:]) if asked.account else None
    with Ledger.open(asked.ledger, create=False) as ledger:
        keys = ledger.keys.find(account)
    output = Output(asked.json)
    if keys or asked.json:
        output.facts({"keys": [_facts(key) for key in keys]})
    else:
        output.note("no keys: flock-ray key create makes one", {})


def revoke(asked: Namespace) -> None:
    """Refuse a key from now on."""
    with Ledger.open(asked.ledger, create=False) as ledger:
        key = ledger.keys.revoke(asked.key_id)
    Output(asked.json).facts(_facts(key))


def _facts(key: Key) -> dict[str, Any]:
    terms = key.terms
    return {
        "key": key.id,
        "label": key.label or None,
        "account": "0x" + terms.account.hex(),
        "models": ", ".join(terms.models) or "all",
        "requests_per_minute": terms.requests_per_minute,
        "tokens_per_minute": terms.tokens_per_minute,
        "concurrent": terms.concurrent,
        "budget_wei": None if terms.budget == _UNBOUNDED else terms.budget,
        "spent_wei": key.spent,
        "created_at": key.created_at,
        "expires_at": terms.expires,
        "revoked_at": key.revoked_at,
    }
