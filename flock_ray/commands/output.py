"""What commands print: facts as aligned text, or as one JSON object.

One set of facts serves both. In text, the end of a name says how its value is told: `_wei` in whole tokens, `_bps` in
percent, `_at` as a time, `_coin` in whole coins; the end itself is left out. A list of facts is a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flock_ray.chain.sender import Bill
from flock_ray.chain.values import GWEI, TxReceipt
from flock_ray.chain.words import format_tokens, percent, utc
from flock_ray.telemetry.table import Console

Facts = Mapping[str, Any]

_UNITS: dict[str, Callable[[Any], str]] = {
    "_wei": format_tokens,
    "_coin": lambda wei: f"{format_tokens(wei)} ether",
    "_bps": percent,
    "_at": lambda time: utc(time) if time else "-",
}


class Output:
    """Prints what a command found or did."""

    def __init__(self, as_json: bool) -> None:
        """Print JSON, or text for people."""
        self._as_json = as_json
        self._console = Console()

    def facts(self, facts: Facts) -> None:
        """Print facts: single values first, then a table for each list."""
        if self._as_json:
            print(json.dumps(facts), flush=True)
            return
        self._pairs({name: value for name, value in facts.items() if not isinstance(value, list)})
        for name, rows in facts.items():
            if isinstance(rows, list) and rows:
                columns = [_label(column) for column in rows[0]]
                self._console.rows(_label(name), columns, [[_text(*item) for item in row.items()] for row in rows])

    def _pairs(self, values: Facts, indent: str = "") -> None:
        width = max((len(_label(name)) for name in values), default=0)
        for name, value in values.items():
            self._console.line(f"{indent}{_label(name):<{width}}  {_text(name, value)}")

    def bills(self, bills: Sequence[Bill], names: Mapping[str, str], account: str, chain_id: int, has: int) -> None:
        """Print what calls would cost.

        Args:
            bills: of the calls, in their order.
            names: of addresses that have one.
            account: that would send them.
            chain_id: of the chain.
            has: the account's coin, wei.
        """
        most = sum(bill.most for bill in bills)
        if self._as_json:
            facts = [
                {
                    "contract": bill.call.contract, "to": bill.call.to, "function": bill.call.function,
                    "arguments": bill.call.words(names), "data": "0x" + bill.call.data.hex(), "gas": bill.gas,
                    "max_fee_per_gas_wei": bill.fees[0], "data_fee_wei": bill.data_fee, "fee_at_most_wei": bill.most,
                }
                for bill in bills
            ]  # fmt: skip
            self.facts({"dry_run": True, "chain_id": chain_id, "account": account, "balance_wei": has,
                        "fee_at_most_wei": most, "calls": facts})  # fmt: skip
            return
        self._console.line(f"Dry run on chain {chain_id} for {account}: nothing is sent")
        for bill in bills:
            self._console.line(bill.call.name)
            self._pairs(bill.call.words(names), "  ")
            data_fee = f" + {format_tokens(bill.data_fee)} ether for its data" if bill.data_fee else ""
            self._console.line(
                f"  {bill.gas:,} gas at up to {bill.fees[0] / GWEI:.9g} gwei{data_fee}:"
                f" at most {format_tokens(bill.most)} ether"
            )
        self._console.line(f"In all at most {format_tokens(most)} ether; the account has {format_tokens(has)}")

    def done(self, receipts: Sequence[TxReceipt], what: str, then: str, facts: Facts) -> None:
        """Print what transactions changed.

        Args:
            receipts: of the transactions; the last one is the one that is told.
            what: they did.
            then: what can be done next, and when; may be empty.
            facts: the same for programs.
        """
        hashes = ["0x" + receipt.hash.hex() for receipt in receipts]
        if self._as_json:
            sent = [
                {"transaction": text, "block": receipt.block, "gas_used": receipt.gas_used}
                for text, receipt in zip(hashes, receipts, strict=True)
            ]
            self.facts({**facts, "next": then, "transactions": sent})
            return
        self._console.line(f"{what} in {hashes[-1]}")
        if then:
            self._console.line(then)

    def note(self, text: str, facts: Facts) -> None:
        """Print what was found where nothing was sent, as a line or, for programs, as facts."""
        if self._as_json:
            self.facts(facts)
        else:
            self._console.line(text)


def _label(name: str) -> str:
    for unit in _UNITS:
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def _text(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    for unit, tell in _UNITS.items():
        if name.endswith(unit):
            return tell(value)
    return str(value)
