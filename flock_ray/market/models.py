"""Entries of a registry: what a model is, which run it came from, what it costs and who is paid for it.

An entry never changes; its name is its adapter's SHA-256. Its canonical JSON is what a registry's folder holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from typing import Any, Self

from flock_ray.market.licences import Licences
from flock_ray.protocol.encoding import Json, canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.price_book import MAX_PRICE, LeafTable, Offer, Split

SCHEMA = "flock_ray/model/1"
BASE = "base"
"""Name by which the base model itself is asked for; no entry has it."""
MAX_ENTRY = 1 << 22
MAX_RANK = 1 << 16
MAX_TARGETS = 1 << 12
MAX_CONTEXT = 1 << 24
KINDS = ("alliance", "contest")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_MODULE = re.compile(r"[\w.-]{1,200}", re.ASCII)


def require_name(name: object, what: str = "a model's name") -> str:
    """The name, if it has the form of one.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == BASE:
        raise ValueError(
            f"{what} has 1 to 63 of a-z, 0-9, '.' and '-', begins with a letter or a digit, and is not {BASE!r};"
            f" {str(name)[:80]!r} is none"
        )
    return name


@dataclass(frozen=True)
class Lora:
    """Shape of an adapter: W + alpha / rank * B A on each targeted layer (Hu et al. 2021, arXiv:2106.09685).

    Attributes:
        rank: r.
        alpha: numerator of the scaling.
        target_modules: ends of the layers' names.
    """

    rank: int
    alpha: int
    target_modules: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, value in (("rank", self.rank), ("alpha", self.alpha)):
            if type(value) is not int or not 0 < value <= MAX_RANK:
                raise ValueError(f"an adapter's {name} is an integer from 1 to {MAX_RANK}, not {value!r}")
        targets = self.target_modules
        if not 0 < len(targets) <= MAX_TARGETS or not all(type(t) is str and _MODULE.fullmatch(t) for t in targets):
            raise ValueError(f"an adapter targets 1 to {MAX_TARGETS} layers by the ends of their names")

    @property
    def scaling(self) -> float:
        """What multiplies B A."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Lineage:
    """The signed record that an adapter came from.

    Attributes:
        kind: of the run: "alliance" or "contest".
        chain_id: of the chain that it was settled on; 0 for none.
        settlement: contract that settled it, 20 bytes; zeros for none.
        distributor: contract that pays its members, 20 bytes; zeros for none.
        task: id of the task.
        epoch: whose record names the adapter as the global one, or the day of a contest.
        record: hash of that record, which its committee signed.
        anchor: hash of all that the members had agreed on before the first epoch.
        parent: hash of the adapter that the run started from; None: from a new one.
        submitter: account of the training node whose adapter it is, 20 bytes; None in an alliance.
    """

    kind: str
    chain_id: int
    settlement: bytes
    distributor: bytes
    task: bytes
    epoch: int
    record: bytes
    anchor: bytes
    parent: bytes | None = None
    submitter: bytes | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a lineage is of an alliance or a contest, not of {str(self.kind)[:40]!r}")
        if type(self.chain_id) is not int or not 0 <= self.chain_id < 1 << 64:
            raise ValueError("a lineage names its chain by an id from 0 to 2^64 - 1")
        if type(self.epoch) is not int or not 0 < self.epoch < 1 << 32:
            raise ValueError("a lineage names its epoch by a number above 0")
        _require_bytes(self, 32, "task", "record", "anchor", "parent")
        _require_bytes(self, 20, "settlement", "distributor", "submitter")


@dataclass(frozen=True)
class Price:
    """What a model's tokens cost, in wei.

    Attributes:
        prompt: for a token of the prompt.
        output: for a token of the answer.
    """

    prompt: int
    output: int

    def __post_init__(self) -> None:
        for wei in (self.prompt, self.output):
            if type(wei) is not int or not 0 <= wei < MAX_PRICE:
                raise ValueError(f"a price is an integer of wei from 0 to 2^64 - 1, not {wei!r}")


@dataclass(frozen=True)
class Model:
    """One entry of a registry.

    Attributes:
        name: what people call it; several versions share one.
        adapter: SHA-256 of the canonical bytes of its adapter, which names the entry.
        base: hash of the base model's weights, as in the terms of its run.
        tokenizer: hash of tokenizer and chat template, as in the terms of its run.
        lora: shape of the adapter.
        context_length: tokens of prompt and answer that the base model takes.
        template_date: date that the chat template was rendered with in training.
        lineage: where it came from.
        price: of its tokens.
        split: of what answers cost.
        host: account that serves it, 20 bytes.
        owner: account that published it, 20 bytes.
        licences: of its parts.
        weights: rewards of those who trained it, which the members' part of the split is divided by; None: nobody's.
    """

    name: str
    adapter: bytes
    base: bytes
    tokenizer: bytes
    lora: Lora
    context_length: int
    template_date: date
    lineage: Lineage
    price: Price
    split: Split
    host: bytes
    owner: bytes
    licences: Licences
    weights: LeafTable | None

    def __post_init__(self) -> None:
        require_name(self.name)
        _require_bytes(self, 32, "adapter", "base", "tokenizer")
        _require_bytes(self, 20, "host", "owner")
        if type(self.context_length) is not int or not 0 < self.context_length <= MAX_CONTEXT:
            raise ValueError(f"a context length is from 1 to {MAX_CONTEXT} tokens, not {self.context_length!r}")
        if self.split.members and self.weights is None:
            raise ValueError("a part of the price goes to members, but the model has no table of their rewards")

    @property
    def id(self) -> str:
        """`name@hash8`."""
        return f"{self.name}@{self.adapter.hex()[:8]}"

    @property
    def offer(self) -> Offer:
        """As a price book has it."""
        named = self.weights.hash if self.weights and self.split.members else ZERO
        price = self.price
        return Offer(self.adapter, price.prompt, price.output, self.split, self.host, self.owner, named)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        lora, lineage, split = self.lora, self.lineage, self.split
        return canonical_json({
            "schema": SCHEMA, "name": self.name, "adapter": to_hex(self.adapter), "base": to_hex(self.base),
            "tokenizer": to_hex(self.tokenizer), "context_length": self.context_length,
            "template_date": self.template_date.isoformat(),
            "lora": {"rank": lora.rank, "alpha": lora.alpha, "target_modules": list(lora.target_modules)},
            "lineage": {item.name: _plain(getattr(lineage, item.name)) for item in fields(Lineage)},
            "price": {"prompt": self.price.prompt, "output": self.price.output},
            "split": {"host": split.host, "protocol": split.protocol, "owner": split.owner, "members": split.members},
            "host": to_hex(self.host), "owner": to_hex(self.owner), "licences": self.licences.as_json(),
            "weights": self.weights.as_json() if self.weights else None,
        })  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The entry with these canonical bytes.

        Raises:
            ValueError: not the canonical bytes of an entry.
        """
        value = parse_canonical(data, MAX_ENTRY)
        try:
            if value.pop("schema") != SCHEMA:
                raise ValueError(f"an entry has the schema {SCHEMA}")
            lora = value.pop("lora")
            read: dict[str, Any] = {
                "adapter": from_hex(value.pop("adapter")),
                "base": from_hex(value.pop("base")),
                "tokenizer": from_hex(value.pop("tokenizer")),
                "lora": Lora(lora.pop("rank"), lora.pop("alpha"), tuple(lora.pop("target_modules")), **lora),
                "template_date": date.fromisoformat(value.pop("template_date")),
                "lineage": _lineage(value.pop("lineage")),
                "price": Price(**value.pop("price")),
                "split": Split(**value.pop("split")),
                "host": from_hex(value.pop("host"), 20),
                "owner": from_hex(value.pop("owner"), 20),
                "licences": Licences.from_json(value.pop("licences")),
                "weights": _leaf_table(value.pop("weights")),
            }
            model = cls(**read, **value)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"an entry has other fields than it should: {error}") from None
        if model.to_bytes() != data:
            raise ValueError("an entry has another form than it should")
        return model


def base_offer(base: bytes, host: bytes, price: Price) -> Offer:
    """What the base model itself costs; all of it is its host's.

    Args:
        base: hash of its weights, which names it in receipts.
        host: account that serves it.
        price: of its tokens.
    """
    return Offer(base, price.prompt, price.output, Split(10_000, 0, 0, 0), host, host, ZERO)


def _lineage(value: Mapping[str, Any]) -> Lineage:
    sizes = {"settlement": 20, "distributor": 20, "submitter": 20, "task": 32, "record": 32, "anchor": 32, "parent": 32}
    read: dict[str, Any] = dict(value)
    for name, size in sizes.items():
        if read.get(name) is not None:
            read[name] = from_hex(read[name], size)
    return Lineage(**read)


def _leaf_table(value: Any) -> LeafTable | None:
    if value is None:
        return None
    if type(value["chain_id"]) is not int or not 0 <= value["chain_id"] < 1 << 64:
        raise ValueError("a table of rewards names its chain by an id from 0 to 2^64 - 1")
    rewards = {from_hex(account, 20): units for account, units in value.pop("rewards")}
    return LeafTable(
        distributor=from_hex(value.pop("distributor"), 20), task=from_hex(value.pop("task")), rewards=rewards, **value
    )


def _plain(value: str | int | bytes | None) -> Json:
    return to_hex(value) if isinstance(value, bytes) else value


def _require_bytes(owner: object, size: int, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is None and name in ("parent", "submitter"):
            continue
        if type(value) is not bytes or len(value) != size:
            raise ValueError(f"{name} of a model is {size} bytes long")
