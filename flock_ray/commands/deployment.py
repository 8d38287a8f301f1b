"""`flock-ray deployment …`: what an outsider looks at before it trusts deployed contracts with money."""

from __future__ import annotations

import json
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import Any

from flock_ray.chain.abi import compiler_input, contract
from flock_ray.chain.address_book import AddressBook
from flock_ray.chain.deployment import CREATED, Settings, Step, plan
from flock_ray.chain.deployment_check import Holders, check_deployment, check_found, check_usage
from flock_ray.chain.node import ChainNode
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.words import format_tokens, percent, utc
from flock_ray.commands.output import Output
from flock_ray.commands.place import read_book
from flock_ray.commands.usage import settings_facts
from flock_ray.errors import AddressBookError, ConfigError, DeploymentError

INPUT_FILE, LIST_FILE = "standard-input.json", "contracts.json"
_IN_WEI = ("supply", "daily", "min_delegation")
_IN_SECONDS = (
    "delay", "activation_delay", "response_window", "grace", "evidence_window", "vault_epoch",
)  # fmt: skip


def check(asked: Namespace) -> None:
    """Compare deployed contracts with this package, and tell their parameters and who has which role."""
    if isinstance(asked.contracts, Path):
        _check_book(asked, read_book(asked.contracts))
    else:
        _check_found(asked)


def _check_book(asked: Namespace, book: AddressBook) -> None:
    settings, steps = _plan(book)
    with closing(RpcNode(asked.rpc, book.chain_id)) as node:
        if book.genesis != "0x" + node.genesis().hex():
            raise AddressBookError(f"{book.path} is of another chain with id {book.chain_id}")
        holders = check_deployment(node, settings, book, steps)
        facts = {"chain_id": book.chain_id, "deployer": book.deployer}
        facts |= _usage(asked, node, book.entries["EpochSettlement"].address)
    contracts = [
        {"contract": name, "address": book.entries[name].address, "block": book.entries[name].block} for name in CREATED
    ]
    what = "creation, code, ties, roles and parameters are those of this package and the book"
    _tell(asked, facts, what, contracts, holders, settings.as_json())


def _check_found(asked: Namespace) -> None:
    with closing(RpcNode(asked.rpc)) as node:
        deployed, at, holders = check_found(node, asked.contracts, asked.from_block)
        parameters = deployed.parameters()
        facts = {"chain_id": node.chain_id} | _usage(asked, node, asked.contracts)
    contracts = [{"contract": name, "address": at[name]} for name in CREATED]
    what = (
        "code and ties are those of this package, the timelock is the only admin; not looked at, since that needs the"
        " address book: what the creation may have left in the contracts besides"
    )
    _tell(asked, facts, what, contracts, holders, parameters)


def _usage(asked: Namespace, node: ChainNode, settlement: str) -> dict[str, object]:
    """Facts of the contract of usage that `--usage` names, compared; none if it names none."""
    if not asked.usage:
        return {}
    return {"usage": asked.usage, **settings_facts(check_usage(node, asked.usage, settlement))}


def _tell(
    asked: Namespace,
    facts: dict[str, object],
    checked: str,
    contracts: list[dict[str, Any]],
    holders: Holders,
    parameters: dict[str, Any],
) -> None:
    roles = [
        {"contract": name, "role": role, "account": account}
        for (name, role), accounts in holders.items()
        for account in accounts
    ]
    rows = [
        {"parameter": name, "value": value if asked.json else _in_words(name, value)}
        for name, value in parameters.items()
    ]
    Output(asked.json).facts({**facts, "checked": checked, "contracts": contracts, "roles": roles, "parameters": rows})


def sources(asked: Namespace) -> None:
    """Write what an explorer asks for to show the contracts' source: no node is needed."""
    book = read_book(asked.book)
    _, steps = _plan(book)
    rows = [
        {
            "contract": step.name,
            "address": book.entries[step.name].address,
            "source": f"{contract(step.name).source}:{step.name}",
            "compiler": f"v{contract(step.name).compiler}",
            "constructor_arguments": step.data[len(contract(step.name).bytecode) :].hex(),
            "input": INPUT_FILE,
        }
        for step in steps
        if not step.to
    ]
    try:
        asked.folder.mkdir(parents=True, exist_ok=True)
        (asked.folder / INPUT_FILE).write_text(compiler_input())
        (asked.folder / LIST_FILE).write_text(json.dumps(rows, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"{asked.folder}: {error.strerror}") from None
    what = f"{LIST_FILE} has address, compiler and constructor arguments of each contract, {INPUT_FILE} all sources"
    shown = rows if asked.json else [{name: row[name] for name in ("contract", "address", "source")} for row in rows]
    Output(asked.json).facts({"folder": str(asked.folder), "written": what, "contracts": shown})


def _plan(book: AddressBook) -> tuple[Settings, list[Step]]:
    """The settings in an address book, and the transactions that this package sends with them."""
    try:
        settings = Settings.from_json(book.settings)
    except TypeError:
        raise AddressBookError(f"{book.path} is of a deployment by another version of this package") from None
    steps = plan(settings, book.deployer, {name: book.entries[name].address for name in CREATED})
    if missing := [step.name for step in steps if step.name not in book.entries]:
        raise DeploymentError(f"{book.path} has no transaction for {', '.join(missing)}")
    return settings, steps


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
