"""Models for tests of the marketplace: entries whose adapters are any bytes."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

from flock_ray.market.licences import Licences
from flock_ray.market.models import Lineage, Lora, Model, Price
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.price_book import LeafTable, Split

BASE, TOKENIZER = sha256(b"base"), sha256(b"tokenizer")
HOST, OWNER, GATEWAY, PROTOCOL = (bytes([number]) * 20 for number in (1, 2, 3, 4))
MEMBERS = {bytes([16]) * 20: 3, bytes([17]) * 20: 2}


def account(number: int) -> bytes:
    return number.to_bytes(20, "big")


def lineage(**changes: Any) -> Lineage:
    fields = {
        "kind": "alliance", "chain_id": 1, "settlement": account(5), "distributor": account(6), "task": sha256(b"task"),
        "epoch": 2, "record": sha256(b"record"), "anchor": sha256(b"anchor"),
    }  # fmt: skip
    return Lineage(**{**fields, **changes})


def entry(adapter: bytes, **changes: Any) -> Model:
    """The entry of an adapter with these bytes: 2 and 6 a token, split as in the golden example."""
    model = Model(
        name="coder",
        adapter=sha256(adapter),
        base=BASE,
        tokenizer=TOKENIZER,
        lora=Lora(8, 16, ("k_proj", "q_proj")),
        context_length=2_048,
        template_date=date(2026, 1, 1),
        lineage=lineage(),
        price=Price(2, 6),
        split=Split(2_000, 800, 2_200, 5_000),
        host=HOST,
        owner=OWNER,
        licences=Licences("apache-2.0", "mit", "apache-2.0"),
        weights=LeafTable(1, account(6), sha256(b"task"), MEMBERS),
    )
    return replace(model, **changes)
