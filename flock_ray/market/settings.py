"""What an operator decides about a gateway, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flock_ray.chain.eip712 import Domain
from flock_ray.errors import ConfigError
from flock_ray.market.batches import SETTLE_MARGIN
from flock_ray.protocol.price_book import Offer

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """How a gateway answers; times in seconds, sizes in bytes.

    Attributes:
        gateway: account that signs price books and settles, 20 bytes.
        protocol: account that gets the protocol's part of every cost, 20 bytes.
        domain: chain and `UsageSettlement` that receipts and caps are signed for (`chain.eip712.usage_domain`).
        account_concurrent: most requests at once of all keys of an account.
        cap_margin: before a cap's end, from which nothing is lent on it: an answer must end, and be settled, by then.
        lends: whether requests need a cap and a deposit; false where no chain settles them.
        base: what the base model itself is sold for (`models.base_offer`); None: only models with an adapter answer.
        knowledge: folder of the documents that answers cite; None: that route is off.
        default_model: what answers a RAG request that names no model; empty: it must name one.
        origins: web origins whose pages may call the API (CORS); empty: none but the gateway's own.
        max_body: of a request.
        body_seconds: in which a request's body must arrive.
        write_seconds: that a client may take to accept a part of an answer; after that it counts as gone.
        answer_seconds: from a request to its whole answer.
        poll_seconds: between two looks at the registry.
    """

    gateway: bytes
    protocol: bytes
    domain: Domain
    account_concurrent: int
    cap_margin: int
    lends: bool = True
    base: Offer | None = None
    knowledge: Path | None = None
    default_model: str = ""
    origins: tuple[str, ...] = ()
    max_body: int = 4 * MIB
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    answer_seconds: float = 600.0
    poll_seconds: float = 1.0

    def __post_init__(self) -> None:
        if len(self.gateway) != 20 or len(self.protocol) != 20:
            raise ConfigError("gateway and protocol of the marketplace are accounts of 20 bytes")
        for name in (
            "account_concurrent", "max_body", "body_seconds", "write_seconds", "answer_seconds", "poll_seconds"
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        least = self.answer_seconds + SETTLE_MARGIN
        if self.lends and self.cap_margin < least:
            raise ConfigError(
                f"cap_margin is {self.cap_margin}; it must be at least {least:g}: an answer may take"
                f" {self.answer_seconds:g} s, and a batch takes only what is under caps that last another"
                f" {SETTLE_MARGIN} s"
            )
