"""What a gateway signs about each answer, and the cap on all of them that a user signs.

Accounts are 20 bytes, hashes 32, amounts integer units of the token. Both are signed as EIP-712 structs
(`chain.usage_digests`): the contract reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from flock_ray.protocol.encoding import Json, canonical_json, from_hex, parse_canonical, to_hex

MAX_TOKENS = 1 << 64
MAX_AMOUNT = 1 << 128
MAX_BYTES = 4_096  # of a receipt
_BYTES = {
    "gateway": 20, "request": 32, "account": 20, "model": 32, "prompt": 32, "output": 32, "price_book": 32,
}  # fmt: skip
_NUMBERS = {"prompt_tokens": MAX_TOKENS, "output_tokens": MAX_TOKENS, "cost": MAX_AMOUNT}


@dataclass(frozen=True)
class Receipt:
    """The receipt of an answer.

    Attributes:
        gateway: account of the gateway.
        request: id, which a gateway uses once.
        account: that is charged: the key's.
        model: hash of the adapter that answered.
        prompt: hash of what was asked.
        output: hash of what was answered.
        prompt_tokens: of the prompt.
        output_tokens: of the answer.
        price_book: hash of the price book.
        cost: units.
    """

    gateway: bytes
    request: bytes
    account: bytes
    model: bytes
    prompt: bytes
    output: bytes
    prompt_tokens: int
    output_tokens: int
    price_book: bytes
    cost: int

    def __post_init__(self) -> None:
        for name, length in _BYTES.items():
            value = getattr(self, name)
            if type(value) is not bytes or len(value) != length:
                raise ValueError(f"{name} of a receipt is {length} bytes")
        for name, limit in _NUMBERS.items():
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < limit:
                raise ValueError(f"{name} of a receipt is an integer in [0, 2^{limit.bit_length() - 1})")

    def as_json(self) -> dict[str, Json]:
        """Its fields, bytes as hex."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: to_hex(value) if isinstance(value, bytes) else value for name, value in values.items()}

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        return canonical_json(self.as_json())

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The receipt with these fields.

        Raises:
            ValueError: a field is missing, unknown or malformed.
        """
        if set(value) != _BYTES.keys() | _NUMBERS.keys():
            raise ValueError(f"a receipt has the fields {', '.join(sorted(_BYTES.keys() | _NUMBERS.keys()))}")
        read: dict[str, Any] = {name: from_hex(value[name], length) for name, length in _BYTES.items()}
        return cls(**read, **{name: value[name] for name in _NUMBERS})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The receipt with these canonical bytes.

        Raises:
            ValueError: not the canonical bytes of a receipt.
        """
        value = parse_canonical(data, MAX_BYTES)
        if not isinstance(value, dict):
            raise ValueError("a receipt is a JSON object")
        return cls.from_json(value)


@dataclass(frozen=True)
class Cap:
    """The most that an account may be charged by a gateway under a price book.

    Attributes:
        account: that signs and pays.
        gateway: that may charge.
        price_book: hash of the price book.
        cumulative: units, over all batches.
        expiry: Unix time: batches that are settled later are not under this cap.
    """

    account: bytes
    gateway: bytes
    price_book: bytes
    cumulative: int
    expiry: int

    def __post_init__(self) -> None:
        if (len(self.account), len(self.gateway), len(self.price_book)) != (20, 20, 32):
            raise ValueError("account and gateway of a cap are 20 bytes, the hash of the price book 32")
        if not 0 <= self.cumulative < MAX_AMOUNT or not 0 <= self.expiry < 1 << 64:
            raise ValueError("a cap is below 2^128 units, its expiry below 2^64")
