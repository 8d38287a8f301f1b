"""What answers cost and who is paid for them: a table that a gateway signs, and the weights of a model's members.

Accounts are 20 bytes, amounts integer units of the token (wei). A price book's hash is the SHA-256 of its canonical
bytes; receipts, caps and batches name it, so a changed price is another price book.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

from flock_ray.protocol.encoding import Json, canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.protocol.hashing import ZERO, sha256

BASIS = 10_000
MAX_PRICE = 1 << 64
MAX_WEIGHT = 1 << 128
MAX_OFFERS = 4_096
MAX_BOOK = 1 << 22
SCHEMA = "flock_ray/price_book/1"


@dataclass(frozen=True)
class LeafTable:
    """The final rewards of a verified run: weights of the members of the model that came from it.

    Attributes:
        chain_id: of the chain that the run was settled on; 0 for weights that no contract holds.
        distributor: contract that pays these rewards, 20 bytes.
        task: id of the task.
        rewards: {account: all that it earned}, whose Merkle root the run's last report has.
    """

    chain_id: int
    distributor: bytes
    task: bytes
    rewards: Mapping[bytes, int]

    def __post_init__(self) -> None:
        rewards = self.rewards.values()
        if not rewards or any(type(units) is not int or not 0 < units < MAX_WEIGHT for units in rewards):
            raise ValueError("members' rewards are positive integers below 2^128, of at least one account")
        if len(self.distributor) != 20 or len(self.task) != 32 or any(len(account) != 20 for account in self.rewards):
            raise ValueError("a leaf table has accounts and a distributor of 20 bytes, and a task of 32")

    def as_json(self) -> dict[str, Json]:
        """Its fields; rewards as [account, units] by ascending account."""
        return {
            "chain_id": self.chain_id, "distributor": to_hex(self.distributor), "task": to_hex(self.task),
            "rewards": [[to_hex(account), self.rewards[account]] for account in sorted(self.rewards)],
        }  # fmt: skip

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the canonical bytes, by which an offer names it."""
        return sha256(canonical_json(self.as_json()))


@dataclass(frozen=True)
class Split:
    """How a cost is divided, in basis points that sum to 10,000."""

    host: int
    protocol: int
    owner: int
    members: int

    def __post_init__(self) -> None:
        parts = (self.host, self.protocol, self.owner, self.members)
        if any(type(part) is not int or part < 0 for part in parts) or sum(parts) != BASIS:
            raise ValueError(f"a split is four basis points of 0 or more that sum to {BASIS}, not {parts}")


@dataclass(frozen=True)
class Offer:
    """A model at a price.

    Attributes:
        model: hash of the adapter.
        prompt: units for a token of the prompt.
        output: units for a token of the answer.
        split: of what it costs.
        host: account that serves it.
        owner: account that published it.
        weights: hash of its members' `LeafTable`; zero, if nothing goes to members.
    """

    model: bytes
    prompt: int
    output: int
    split: Split
    host: bytes
    owner: bytes
    weights: bytes

    def __post_init__(self) -> None:
        for price in (self.prompt, self.output):
            if type(price) is not int or not 0 <= price < MAX_PRICE:
                raise ValueError(f"a price is an integer in [0, 2^64), not {price}")
        if (self.weights == ZERO) != (self.split.members == 0):
            raise ValueError("an offer names its members' weights exactly if a part goes to members")

    def cost(self, prompt_tokens: int, output_tokens: int) -> int:
        """Units of an answer."""
        return prompt_tokens * self.prompt + output_tokens * self.output

    def as_json(self) -> dict[str, Json]:
        """As in the price book."""
        split = self.split
        return {
            "model": to_hex(self.model), "prompt": self.prompt, "output": self.output, "host": to_hex(self.host),
            "owner": to_hex(self.owner), "weights": to_hex(self.weights),
            "split": {"host": split.host, "protocol": split.protocol, "owner": split.owner, "members": split.members},
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The offer of a price book.

        Raises:
            ValueError: a field is missing, unknown or out of its bounds.
        """
        try:
            fields = dict(value)
            model, host, owner, weights = (fields.pop(name) for name in ("model", "host", "owner", "weights"))
            split = Split(**fields.pop("split"))
            accounts = from_hex(host, 20), from_hex(owner, 20)
            return cls(model=from_hex(model), split=split, host=accounts[0], owner=accounts[1],
                       weights=from_hex(weights), **fields)  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(f"an offer of the price book has other fields than it should: {error}") from None


@dataclass(frozen=True)
class PriceBook:
    """A gateway's offers.

    Attributes:
        gateway: account that signs it, settles and stakes.
        protocol: account that gets the protocol's part, and what floors leave over.
        offers: by ascending model, each once.
    """

    gateway: bytes
    protocol: bytes
    offers: tuple[Offer, ...]

    def __post_init__(self) -> None:
        models = [offer.model for offer in self.offers]
        if not models or len(models) > MAX_OFFERS or any(a >= b for a, b in pairwise(models)):
            raise ValueError(f"a price book has 1 to {MAX_OFFERS} offers by ascending model, each once")

    @cached_property
    def _by_model(self) -> dict[bytes, Offer]:
        return {offer.model: offer for offer in self.offers}

    def offer(self, model: bytes) -> Offer:
        """The offer of a model.

        Raises:
            ValueError: there is none.
        """
        if model not in self._by_model:
            raise ValueError(f"the price book has no model {to_hex(model)}")
        return self._by_model[model]

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        return canonical_json({
            "schema": SCHEMA, "gateway": to_hex(self.gateway), "protocol": to_hex(self.protocol),
            "offers": [offer.as_json() for offer in self.offers],
        })  # fmt: skip

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the canonical bytes: its name in receipts, caps and batches."""
        return sha256(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The price book with these canonical bytes.

        Raises:
            ValueError: not the canonical bytes of a price book.
        """
        value = parse_canonical(data, MAX_BOOK)
        if not isinstance(value, dict) or set(value) != {"schema", "gateway", "protocol", "offers"}:
            raise ValueError("a price book has schema, gateway, protocol and offers")
        if value["schema"] != SCHEMA or not isinstance(value["offers"], list):
            raise ValueError(f"a price book has the schema {SCHEMA} and a list of offers")
        offers = tuple(Offer.from_json(offer) for offer in value["offers"])
        return cls(from_hex(value["gateway"], 20), from_hex(value["protocol"], 20), offers)
