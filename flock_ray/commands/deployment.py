"""`flock-ray deployment check`: what an outsider looks at before it trusts deployed contracts with money."""

from __future__ import annotations

from argparse import Namespace
from contextlib import closing
from typing import Any

from flock_ray.chain.address_book import AddressBook
from flock_ray.chain.deployment import CREATED, Settings, plan
from flock_ray.chain.deployment_check import ADMIN_ROLE, ROLES, check_deployment, role_holders
from flock_ray.chain.node import ChainNode
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.words import format_tokens, percent, utc
from flock_ray.commands.output import Output
from flock_ray.commands.place import read_book
from flock_ray.errors import AddressBookError, DeploymentError

_IN_WEI = ("supply", "daily", "min_delegation")
_IN_SECONDS = (
    "delay", "activation_delay", "response_window", "evidence_window", "vault_epoch",
)  # fmt: skip


def check(asked: Namespace) -> None:
    """Compare deployed contracts with this package, and tell their parameters and who has which role."""
    book = read_book(asked.book)
    with closing(RpcNode(asked.rpc, book.chain_id)) as node:
        if book.genesis != "0x" + node.genesis().hex():
            raise AddressBookError(f"{asked.book} is of another chain with id {book.chain_id}")
        settings = _settings(book)
        at = {name: book.entries[name].address for name in CREATED}
        steps = plan(settings, book.deployer, at)
        if missing := [step.name for step in steps if step.name not in book.entries]:
            raise DeploymentError(f"{asked.book} has no transaction for {', '.join(missing)}")
        check_deployment(node, settings, book, steps)
        roles = _roles(node, book, at)
    Output(asked.json).facts(
        {
            "chain_id": book.chain_id,
            "deployer": book.deployer,
            "checked": "code, arguments, ties and roles are those of this package",
            "contracts": [
                {"contract": name, "address": at[name], "block": book.entries[name].block} for name in CREATED
            ],
            "roles": roles,
            "parameters": [
                {"parameter": name, "value": value if asked.json else _in_words(name, value)}
                for name, value in settings.as_json().items()
            ],
        }
    )


def _settings(book: AddressBook) -> Settings:
    try:
        return Settings.from_json(book.settings)
    except TypeError:
        raise AddressBookError(f"{book.path} is of a deployment by another version of this package") from None


def _roles(node: ChainNode, book: AddressBook, at: dict[str, str]) -> list[dict[str, str]]:
    """Everybody who has a role.

    Raises:
        DeploymentError: somebody besides the timelock is an admin.
    """
    rows = []
    for name, roles in ROLES.items():
        for role, digest in roles.items():
            holders = role_holders(node, at[name], digest, book.entries[name].block)
            if digest == ADMIN_ROLE and holders != [at["TimelockController"]]:
                raise DeploymentError(f"admins of {name} are {', '.join(holders)}, expected the timelock only")
            rows += [{"contract": name, "role": role, "account": holder} for holder in holders]
    return rows


def _in_words(name: str, value: Any) -> str:
    if name in _IN_WEI:
        return f"{format_tokens(value)} tokens"
    if name in _IN_SECONDS:
        return f"{value:,} seconds"
    if name.endswith("_bps"):
        return percent(value)
    if name == "start":
        return utc(value)
    return ", ".join(value) if isinstance(value, list) else str(value) or "-"
