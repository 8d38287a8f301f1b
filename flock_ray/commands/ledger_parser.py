"""The command lines of `flock-ray key`, `usage`, `gateway` and `deposit`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flock_ray.commands.arguments import address, amount, positive
from flock_ray.market.places import DEFAULT_FOLDER, DEFAULT_URL

Part = Callable[[Any], None]
"""Adds arguments to a command."""


def _ledger(parser: Any) -> None:
    parser.add_argument(
        "--ledger", default=DEFAULT_URL, metavar="URL",
        help=f"the ledger: sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE (default: {DEFAULT_URL})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object; amounts in wei, times in seconds")


def _sender(parser: Any) -> None:
    parser.add_argument("--rpc", required=True, metavar="URL", help="node of the chain")
    parser.add_argument("--key", default="gateway", metavar="NAME", help="key of the gateway (default: gateway)")
    parser.add_argument("--keystore", default="", metavar="DIR", help="folder of keystores, instead of the environment")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, send nothing")
    parser.add_argument(
        "--to", type=Path, default=DEFAULT_FOLDER, metavar="DIR",
        help=f"folder of the batches, and of the journal of what was sent (default: {DEFAULT_FOLDER})",
    )  # fmt: skip


def add_key(group: Any) -> None:
    """Commands about keys of a gateway's API."""
    create = group.add("create", "make a key for an account, and show its secret, once", _ledger)
    create.add_argument("--account", required=True, type=address, metavar="ADDRESS", help="account that is charged")
    create.add_argument("--label", default="", metavar="TEXT", help="what the key is for")
    create.add_argument(
        "--model", action="append", default=[], metavar="MODEL",
        help="a model that it may ask, as name@hash8, name or hash; may be repeated (default: every model)",
    )  # fmt: skip
    for name, help in (
        ("requests-per-minute", "most requests in any 60 seconds"),
        ("tokens-per-minute", "most tokens of prompts and answers in any 60 seconds"),
        ("concurrent", "most requests at once"),
    ):
        create.add_argument(f"--{name}", type=positive, metavar="N", help=help)
    create.add_argument("--budget", type=amount, metavar="AMOUNT", help="most that it may ever spend, in whole tokens")
    create.add_argument("--days", type=positive, metavar="N", help="days after which it expires (default: never)")
    found = group.add("list", "list keys: what each may do, and what it spent", _ledger, act="key:list_keys")
    found.add_argument("--account", type=address, metavar="ADDRESS", help="only those of this account")
    revoke = group.add("revoke", "refuse a key from now on", _ledger)
    revoke.add_argument("key_id", metavar="KEY", help="id of the key, as listed; not its secret")


def add_usage(group: Any) -> None:
    """Commands about what was used, and its settlement."""
    show = group.add(
        "show", "show what accounts used, which receipts wait, and the batches", _ledger, act="usage_settlement:show"
    )
    show.add_argument("--account", type=address, metavar="ADDRESS", help="only this account")
    settle = "settle the receipts that wait, and collect what active batches charge"
    settling = group.add("settle", settle, _ledger, _sender, act="usage_settlement:settle")
    settling.add_argument(
        "--every", type=positive, metavar="SECONDS",
        help="look again and again, and tell the gateway of deposits: it lends nothing without (default: once)",
    )  # fmt: skip
    settling.add_argument(
        "--after", type=positive, default=3_600, metavar="SECONDS",
        help="with --every: settle receipts that wait so long, and at once what is urgent (default: 3600)",
    )  # fmt: skip
    group.add("pay", "pay everybody what full batches give them", _ledger, _sender, act="usage_settlement:pay")


def _usage(parser: Any) -> None:
    parser.add_argument("--usage", required=True, metavar="ADDRESS", type=address, help="the contract of usage")


def _gateway(parser: Any) -> None:
    parser.add_argument("gateway", metavar="GATEWAY", type=address, help="address of the gateway's account")


def _account(parser: Any) -> None:
    parser.add_argument("account", metavar="ACCOUNT", type=address, help="address of the account")


def add_gateway(group: Any, chain: Part, sender: Part, much: Part) -> None:
    """Commands about a gateway's stake; the parts are those of all commands on a chain."""
    group.add("show", "show a gateway's stake, and whether it may settle", _account, _usage, chain,
              act="usage_money:show_gateway")  # fmt: skip
    group.add("stake", "add to your stake as a gateway", much, _usage, sender, act="usage_money:stake")
    unstake = "ask for stake back; in the place of what was asked for before"
    group.add("unstake", unstake, much, _usage, sender, act="usage_money:unstake")
    withdraw = "take out the stake that was asked for, after the withdrawal delay"
    group.add("withdraw", withdraw, _usage, sender, act="usage_money:withdraw_stake")
    signs = group.add("receipt-key", "let a key sign your receipts", _usage, sender, act="usage_money:receipt_key")
    signs.add_argument("receipt_key", metavar="ADDRESS", type=address, help="address of the key")
    signs.add_argument("--revoke", action="store_true", help="no longer")


def add_deposit(group: Any, chain: Part, sender: Part, much: Part) -> None:
    """Commands about users' deposits."""
    group.add("show", "show an account's deposit at a gateway", _gateway, _account, _usage, chain,
              act="usage_money:show_deposit")  # fmt: skip
    adding = group.add("add", "deposit tokens at a gateway", _gateway, much, _usage, sender, act="usage_money:deposit")
    adding.add_argument("--account", type=address, help="for another account than the one that sends")
    request = "ask for a deposit back; in the place of what was asked for before"
    group.add("request", request, _gateway, much, _usage, sender, act="usage_money:request")
    withdraw = "take out the deposit that was asked for, after the withdrawal delay"
    group.add("withdraw", withdraw, _gateway, _usage, sender, act="usage_money:withdraw")
    cap = group.add("cap", "sign the most that a gateway may ever charge you, and hand it in", _gateway, _usage, sender,
                    act="usage_money:cap")  # fmt: skip
    cap.add_argument("amount", metavar="AMOUNT", type=amount, help="whole tokens, over all batches of a price book")
    cap.add_argument(
        "--url", required=True, metavar="URL", help="where the gateway answers; $FLOCK_RAY_KEY is the API key's secret"
    )
