"""A batch of usage, derived again from its receipts, caps, price book and leaf tables: the first thing that is wrong.

Written a second time: nothing here comes from `protocol.usage`, `protocol.price_book`, `protocol.receipt` or from the
trees and digests of `chain`. Nobody can prove that a request was made; a user's cap bounds what it is charged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flock_ray.chain.abi import contract
from flock_ray.chain.keys import checksummed, recover
from flock_ray.chain.node import ChainNode, Reverted
from flock_ray.errors import VerificationError
from flock_ray.protocol.encoding import canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.protocol.hashing import ZERO, keccak, sha256, tag, tagged, word
from flock_ray.verify.compare import require, require_equal
from flock_ray.verify.folder import MAX_JSON, UsageFolder
from flock_ray.verify.report import SigningDomain, merkle_root

_CAP = "Cap(address account,address gateway,bytes32 priceBook,uint128 cumulative,uint64 expiry)"
_RECEIPT = (
    "Receipt(address gateway,bytes32 request,address account,bytes32 model,bytes32 prompt,bytes32 output,"
    "uint64 promptTokens,uint64 outputTokens,bytes32 priceBook,uint128 cost)"
)
_BOOK = "PriceBook(address gateway,bytes32 digest)"
_BATCH = "UsageBatch(address gateway,bytes32 digest)"
_WHOLE = 10_000

Table = dict[bytes, int]
Reader = Callable[[Any], Any]


def _hex(length: int) -> Reader:
    return lambda value: from_hex(value, length)


def _below(power: int) -> Reader:
    def read(value: Any) -> int:
        if type(value) is not int or not 0 <= value < 1 << power:
            raise ValueError(f"expected an integer in [0, 2^{power})")
        return value

    return read


_ACCOUNT, _HASH, _SIGNATURE, _AMOUNT, _TIME = _hex(20), _hex(32), _hex(65), _below(128), _below(64)
_CLAIMS: dict[str, Reader] = {
    "schema": str, "chain_id": _below(256), "contract": _ACCOUNT, "gateway": _ACCOUNT, "price_book": _HASH,
    "number": _TIME, "settled_at": _TIME, "charges_root": _HASH, "payouts_root": _HASH, "total": _AMOUNT,
    "before_charges_root": _HASH, "before_payouts_root": _HASH, "before_total": _AMOUNT,
}  # fmt: skip
_OFFER: dict[str, Reader] = {
    "model": _HASH, "prompt": _below(64), "output": _below(64), "host": _ACCOUNT, "owner": _ACCOUNT, "weights": _HASH,
    "split": lambda value: _read(value, dict.fromkeys(("host", "protocol", "owner", "members"), _below(16)), "split"),
}  # fmt: skip
_RECEIPT_FIELDS: dict[str, Reader] = {  # in the order of the struct
    "gateway": _ACCOUNT, "request": _HASH, "account": _ACCOUNT, "model": _HASH, "prompt": _HASH, "output": _HASH,
    "prompt_tokens": _TIME, "output_tokens": _TIME, "price_book": _HASH, "cost": _AMOUNT,
}  # fmt: skip
_CAP_FIELDS: dict[str, Reader] = {
    "account": _ACCOUNT, "cumulative": _AMOUNT, "expiry": _TIME, "signature": _SIGNATURE
}  # fmt: skip
_SIGNATURES: dict[str, Reader] = {"batch": _SIGNATURE, "price_book": _SIGNATURE}


def _read(value: Any, fields: Mapping[str, Reader], what: str) -> dict[str, Any]:
    """The fields of an object, which has these and no other."""
    require(isinstance(value, dict) and value.keys() == fields.keys(), f"{what} has other fields than it should")
    found = {}
    for name, read in fields.items():
        try:
            found[name] = read(value[name])
        except ValueError as error:
            raise VerificationError(f"{what}.{name}: {error}") from None
    return found


def _parse(folder: UsageFolder, name: str) -> Any:
    return _canonical(folder.read(name), name)


def _canonical(data: bytes, what: str) -> Any:
    try:
        return parse_canonical(data, MAX_JSON)
    except ValueError as error:
        raise VerificationError(f"{what} is not canonical JSON: {error}") from None


@dataclass(frozen=True)
class Source:
    """The run that a model's members are paid by: the Merkle root that its last report must have."""

    chain_id: int
    distributor: bytes
    task: bytes
    rewards_root: bytes


@dataclass(frozen=True)
class UsageReplay:
    """A batch that holds.

    Attributes:
        series: name of its gateway's batches under its price book.
        number: in the series.
        num_receipts: of this batch.
        charges: what each account was charged, all batches together.
        payouts: what each account is to get.
        sources: {model: the run whose rewards its members are paid by}.
        on_chain: whether the contract was asked.
    """

    series: bytes
    number: int
    num_receipts: int
    charges: Table
    payouts: Table
    sources: dict[bytes, Source]
    on_chain: bool


def verify_usage(path: Path, node: ChainNode | None = None) -> UsageReplay:
    """Derive a batch again.

    Args:
        path: folder of the batch.
        node: of the chain that it was settled on, which is then asked, too.

    Raises:
        VerificationError: something does not hold; the text names the first such thing.
        RunDirectoryError: the folder holds no batch.
    """
    return _Batch(UsageFolder(path)).verify(node)


class _Batch:
    def __init__(self, folder: UsageFolder) -> None:
        self._folder = folder
        self._claims = _read(_parse(folder, "batch.json"), _CLAIMS, "batch.json")
        require_equal(self._claims["schema"], "flock_ray/usage_batch/1", "batch.json.schema")
        require(self._claims["number"] >= 1, "batch.json.number: batches are numbered from 1")
        at = self._claims["contract"]
        self._domain = SigningDomain(self._claims["chain_id"], at, at)
        self._gateway, self._book_hash = self._claims["gateway"], self._claims["price_book"]
        self.series = tagged("flock_ray/usage/1", int.from_bytes(self._gateway, "big"), self._book_hash)
        self._keys = set[bytes]()

    def verify(self, node: ChainNode | None) -> UsageReplay:
        signatures = _read(_parse(self._folder, "signatures.json"), _SIGNATURES, "signatures.json")
        digest = sha256(self._folder.read("batch.json"))
        self._signed(self._gateway, _words(_BATCH, self._gateway, digest), signatures["batch"], "batch.json")
        offers, protocol = self._price_book(signatures["price_book"])
        tables = self._weights(offers)
        charges, payouts = self._before()
        before = dict(charges)
        count = self._receipts(offers, protocol, tables, charges, payouts)
        self._roots(charges, payouts, "", "batch.json")
        self._caps({account: units for account, units in charges.items() if before.get(account) != units})
        if node is not None:
            self._on_chain(node)
        sources = {
            model: self._source(tables[offer["weights"]]) for model, offer in offers.items() if offer["weights"] != ZERO
        }
        return UsageReplay(self.series, self._claims["number"], count, charges, payouts, sources, node is not None)

    # What the batch follows from

    def _price_book(self, signature: bytes) -> tuple[dict[bytes, dict[str, Any]], bytes]:
        data = self._folder.read("price_book.json")
        require_equal(sha256(data), self._book_hash, "hash of price_book.json")
        fields: dict[str, Reader] = {"schema": str, "gateway": _ACCOUNT, "protocol": _ACCOUNT, "offers": list}
        book = _read(_canonical(data, "price_book.json"), fields, "price_book.json")
        require_equal(book["schema"], "flock_ray/price_book/1", "price_book.json.schema")
        require_equal(book["gateway"], self._gateway, "price_book.json.gateway")
        self._signed(self._gateway, _words(_BOOK, self._gateway, self._book_hash), signature, "the price book")
        offers, last = dict[bytes, dict[str, Any]](), b""
        for number, value in enumerate(book["offers"]):
            what = f"price_book.json.offers[{number}]"
            offer = _read(value, _OFFER, what)
            require(offer["model"] > last, f"{what}: models are not in ascending order")
            last = offer["model"]
            require_equal(sum(offer["split"].values()), _WHOLE, f"sum of the split of {what}")
            named = offer["weights"] != ZERO
            require(
                named == bool(offer["split"]["members"]), f"{what}: weights without members' part, or without weights"
            )
            offers[offer["model"]] = offer
        require(bool(offers), "price_book.json offers nothing")
        return offers, book["protocol"]

    def _signed(self, account: bytes, struct: bytes, signature: bytes, what: str) -> None:
        by = recover(self._domain.digest(struct), signature)
        require(by == _text(account), f"{what} is not signed by {to_hex(account)}")

    def _weights(self, offers: Mapping[bytes, dict[str, Any]]) -> dict[bytes, dict[str, Any]]:
        values = _parse(self._folder, "weights.json")
        require(isinstance(values, list), "weights.json is no list")
        tables: dict[bytes, dict[str, Any]] = {}
        for number, value in enumerate(values):
            what = f"weights.json[{number}]"
            fields: dict[str, Reader] = {
                "chain_id": _below(256), "distributor": _ACCOUNT, "task": _HASH,
                "rewards": partial(_table, what=f"{what}.rewards"),
            }  # fmt: skip
            table = _read(value, fields, what)
            require(bool(table["rewards"]), f"{what} rewards nobody")
            tables[sha256(canonical_json(value))] = table
        needed = {offer["weights"] for offer in offers.values()} - {ZERO}
        for missing in sorted(needed - tables.keys()):
            raise VerificationError(f"weights.json has no table with the hash {to_hex(missing)}, which an offer names")
        for other in sorted(tables.keys() - needed):
            raise VerificationError(f"weights.json has a table with the hash {to_hex(other)}, which no offer names")
        require(list(tables) == sorted(tables), "weights.json is not in the order of the tables' hashes")
        require_equal(len(values), len(tables), "number of tables in weights.json")
        return tables

    def _source(self, table: Mapping[str, Any]) -> Source:
        place = SigningDomain(table["chain_id"], table["distributor"], table["distributor"])
        leaves = (place.leaf(table["task"], to_hex(account), units) for account, units in table["rewards"].items())
        return Source(table["chain_id"], table["distributor"], table["task"], merkle_root(leaves))

    def _before(self) -> tuple[Table, Table]:
        fields: dict[str, Reader] = {
            name: partial(_table, what=f"before.json.{name}") for name in ("charges", "payouts")
        }
        tables = _read(_parse(self._folder, "before.json"), fields, "before.json")
        charges, payouts = tables["charges"], tables["payouts"]
        require(self._claims["number"] > 1 or not charges, "before.json: nothing is before the first batch")
        self._roots(charges, payouts, "before_", "before.json")
        return charges, payouts

    def _roots(self, charges: Table, payouts: Table, prefix: str, what: str) -> None:
        """The tables have one sum, and with it and their roots are those that the batch claims."""
        require_equal(sum(payouts.values()), sum(charges.values()), f"sum of the payouts of {what}")
        for name, table in (("charges", charges), ("payouts", payouts)):
            leaves = (self._domain.leaf(self.series, to_hex(account), units) for account, units in table.items())
            require_equal(self._claims[f"{prefix}{name}_root"], merkle_root(leaves), f"batch.json.{prefix}{name}_root")
        require_equal(self._claims[f"{prefix}total"], sum(charges.values()), f"batch.json.{prefix}total")

    # What it charges

    def _receipts(
        self,
        offers: Mapping[bytes, dict[str, Any]],
        protocol: bytes,
        tables: Mapping[bytes, dict[str, Any]],
        charges: Table,
        payouts: Table,
    ) -> int:
        data, last = self._folder.read("receipts.jsonl"), b""
        require(data.endswith(b"\n"), "receipts.jsonl does not end with a whole line")
        lines = data[:-1].split(b"\n")
        for number, line in enumerate(lines, start=1):
            receipt = self._receipt(line, f"line {number} of receipts.jsonl")
            require(receipt["request"] > last, f"line {number} of receipts.jsonl: requests are not in ascending order")
            last = receipt["request"]
            require(receipt["model"] in offers, f"line {number} of receipts.jsonl: the price book has no such model")
            offer = offers[receipt["model"]]
            cost = receipt["prompt_tokens"] * offer["prompt"] + receipt["output_tokens"] * offer["output"]
            require_equal(receipt["cost"], cost, f"cost on line {number} of receipts.jsonl")
            _add(charges, receipt["account"], cost)
            rewards = tables[offer["weights"]]["rewards"] if offer["weights"] != ZERO else {}
            for account, units in _shares(cost, offer, rewards, protocol):
                _add(payouts, account, units)
        return len(lines)

    def _receipt(self, line: bytes, what: str) -> dict[str, Any]:
        fields: dict[str, Reader] = {
            "key": _ACCOUNT, "signature": _SIGNATURE,
            "receipt": lambda value: _read(value, _RECEIPT_FIELDS, f"{what}: receipt"),
        }  # fmt: skip
        signed = _read(_canonical(line, what), fields, what)
        receipt: dict[str, Any] = signed["receipt"]
        self._signed(signed["key"], _words(_RECEIPT, *receipt.values()), signed["signature"], f"{what}: the receipt")
        self._keys.add(signed["key"])
        require_equal(receipt["gateway"], self._gateway, f"gateway on {what}")
        require_equal(receipt["price_book"], self._book_hash, f"price book on {what}")
        return receipt

    def _caps(self, charged: Table) -> None:
        values = _parse(self._folder, "caps.json")
        require(isinstance(values, list), "caps.json is no list")
        capped, last = Table(), b""
        for number, value in enumerate(values):
            what = f"caps.json[{number}]"
            cap = _read(value, _CAP_FIELDS, what)
            account = cap["account"]
            require(account > last, f"{what}: accounts are not in ascending order")
            struct = _words(_CAP, account, self._gateway, self._book_hash, cap["cumulative"], cap["expiry"])
            self._signed(account, struct, cap["signature"], what)
            require(cap["expiry"] >= self._claims["settled_at"], f"{what} had expired when the batch was settled")
            require(account in charged, f"{what}: this batch charges {to_hex(account)} nothing")
            capped[account], last = cap["cumulative"], account
        for account in sorted(charged):
            require(account in capped, f"caps.json has no cap of {to_hex(account)}, which is charged")
            held = charged[account] <= capped[account]
            require(held, f"{to_hex(account)} is charged {charged[account]}, above its cap of {capped[account]}")

    # What the chain says

    def _on_chain(self, node: ChainNode) -> None:
        claims = self._claims
        require_equal(claims["chain_id"], node.chain_id, "batch.json.chain_id")
        code = node.code(_text(claims["contract"]))
        require(
            contract("UsageSettlement").runs_as(code), "the contract of the batch is not this package's UsageSettlement"
        )
        numbers = {"": claims["number"], "before_": claims["number"] - 1}
        for prefix, number in numbers.items():
            if not number:
                continue
            charges, payouts, total, settled_at = self._ask(node, "batchOf", self.series, number)
            for name, value in (("charges_root", charges), ("payouts_root", payouts), ("total", total)):
                require_equal(claims[prefix + name], value, f"batch.json.{prefix}{name}, by the chain")
            if not prefix:
                require_equal(claims["settled_at"], settled_at, "batch.json.settled_at, by the chain")
        for key in sorted(self._keys):
            until = self._ask(node, "receiptKeyUntil", _text(self._gateway), _text(key))
            require(until >= claims["settled_at"], f"{to_hex(key)} is no receipt key of the gateway")

    def _ask(self, node: ChainNode, function: str, *args: object) -> Any:
        compiled = contract("UsageSettlement")
        try:
            answer = node.call(_text(self._claims["contract"]), compiled.encode(function, *args), _text(self._gateway))
            return compiled.decode(function, answer)[0]
        except Reverted:
            raise VerificationError(f"the chain has no batch {self._claims['number']} of this series") from None


def _text(account: bytes) -> str:
    return checksummed(account.hex())


def _words(type_text: str, *members: bytes | int) -> bytes:
    """HashStruct of members that are a word each: hashes, integers, and addresses to the right of theirs."""
    words = (word(member) if isinstance(member, int) else member.rjust(32, b"\0") for member in members)
    return keccak(tag(type_text) + b"".join(words))


def _table(value: Any, what: str) -> Table:
    """{account: units} of a list of pairs by ascending account, with no zero."""
    require(isinstance(value, list), f"{what} is no list")
    table, last = Table(), b""
    for number, pair in enumerate(value):
        require(isinstance(pair, list) and len(pair) == 2, f"{what}[{number}] is no pair")
        entry = _read(dict(zip(("account", "units"), pair, strict=True)), {"account": _ACCOUNT, "units": _AMOUNT}, what)
        require(entry["account"] > last, f"{what}[{number}]: accounts are not in ascending order")
        require(entry["units"] > 0, f"{what}[{number}] is nothing")
        last = entry["account"]
        table[last] = entry["units"]
    return table


def _shares(cost: int, offer: Mapping[str, Any], rewards: Table, protocol: bytes) -> list[tuple[bytes, int]]:
    """(account, units): floors of the split for host, owner and each member; all the rest is the protocol's."""
    split = offer["split"]
    shares = [(offer["host"], cost * split["host"] // _WHOLE), (offer["owner"], cost * split["owner"] // _WHOLE)]
    pot, whole = cost * split["members"] // _WHOLE, sum(rewards.values())
    shares += [(account, pot * units // whole) for account, units in rewards.items()]
    return [*shares, (protocol, cost - sum(units for _, units in shares))]


def _add(table: Table, account: bytes, units: int) -> None:
    if units:
        table[account] = table.get(account, 0) + units
