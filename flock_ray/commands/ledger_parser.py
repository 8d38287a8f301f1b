"""The command lines of `flock-ray key` and `flock-ray usage`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flock_ray.commands.arguments import address, amount, positive
from flock_ray.market.places import DEFAULT_FOLDER, DEFAULT_URL


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
