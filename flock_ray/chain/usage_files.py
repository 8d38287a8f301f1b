"""A batch as files, from which anybody can derive its roots again: `verify.usage` reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flock_ray.chain.eip712 import usage_batch_digest
from flock_ray.chain.usage import SignedCap, SignedReceipt, UsageBatch
from flock_ray.protocol.encoding import Json, canonical_json, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.price_book import LeafTable, PriceBook
from flock_ray.protocol.usage import Amounts, Tables

SCHEMA = "flock_ray/usage_batch/1"


@dataclass(frozen=True)
class BatchEvidence:
    """What a batch follows from.

    Attributes:
        book: the price book.
        book_signature: the gateway's of it, 65 bytes.
        weights: leaf tables of the offers that pay members.
        before: tables of the batch before; empty for the first.
        receipts: of this batch, in any order.
        caps: {account: cap} of the accounts that this batch charges.
    """

    book: PriceBook
    book_signature: bytes
    weights: Sequence[LeafTable]
    before: Tables
    receipts: Sequence[SignedReceipt]
    caps: Mapping[bytes, SignedCap]


def batch_files(
    batch: UsageBatch, evidence: BatchEvidence, settled_at: int, sign: Callable[[bytes], bytes]
) -> dict[str, bytes]:
    """The files of a batch: the same evidence gives the same bytes.

    Args:
        batch: the batch.
        evidence: what it follows from.
        settled_at: Unix time of its settlement.
        sign: gives the gateway's signature of a digest, 65 bytes.

    Returns:
        {name: content}.
    """
    before = UsageBatch(batch.domain, batch.gateway, batch.price_book, batch.number - 1, evidence.before)
    claims: dict[str, Json] = {
        "schema": SCHEMA, "chain_id": batch.domain.chain_id, "contract": batch.domain.contract.lower(),
        "gateway": to_hex(batch.gateway), "price_book": to_hex(batch.price_book), "number": batch.number,
        "settled_at": settled_at, **_roots(batch, ""), **_roots(before, "before_"),
    }  # fmt: skip
    receipts = sorted(evidence.receipts, key=lambda signed: signed.receipt.request)
    weights = sorted(evidence.weights, key=lambda table: table.hash)
    claimed = canonical_json(claims)
    signature = sign(usage_batch_digest(batch.domain, batch.gateway, sha256(claimed)))
    return {
        "batch.json": claimed,
        "price_book.json": evidence.book.to_bytes(),
        "signatures.json": canonical_json({"batch": to_hex(signature), "price_book": to_hex(evidence.book_signature)}),
        "weights.json": canonical_json([table.as_json() for table in weights]),
        "before.json": canonical_json(
            {"charges": _table(evidence.before.charges), "payouts": _table(evidence.before.payouts)}
        ),
        "receipts.jsonl": b"".join(canonical_json(_receipt(signed)) + b"\n" for signed in receipts),
        "caps.json": canonical_json([_cap(evidence.caps[account]) for account in sorted(evidence.caps)]),
    }


def _roots(batch: UsageBatch, prefix: str) -> dict[str, Json]:
    return {
        f"{prefix}charges_root": to_hex(batch.charges.root),
        f"{prefix}payouts_root": to_hex(batch.payouts.root),
        f"{prefix}total": batch.tables.total,
    }


def _table(amounts: Amounts) -> list[Json]:
    return [[to_hex(account), amounts[account]] for account in sorted(amounts)]


def _receipt(signed: SignedReceipt) -> dict[str, Json]:
    return {
        "receipt": signed.receipt.as_json(), "key": to_hex(signed.key), "signature": to_hex(signed.signature)
    }  # fmt: skip


def _cap(signed: SignedCap) -> dict[str, Json]:
    cap = signed.cap
    return {
        "account": to_hex(cap.account), "cumulative": cap.cumulative, "expiry": cap.expiry,
        "signature": to_hex(signed.signature),
    }  # fmt: skip
