"""What `registry.json` of a registry's folder says: what is served, under which aliases, and how it is sold now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from flock_ray.market.models import Model, Price, require_name
from flock_ray.protocol.encoding import Json, canonical_json, from_hex, parse_canonical, to_hex
from flock_ray.protocol.price_book import Split

SCHEMA = "flock_ray/registry/1"
MAX_INDEX = 1 << 22
MAX_MODELS = 4_000
MAX_ALIASES = 4_000


@dataclass(frozen=True)
class Offering:
    """What of an entry may change: how it is sold.

    Attributes:
        price: of its tokens.
        split: of what answers cost.
        host: account that serves it, 20 bytes.
    """

    price: Price
    split: Split
    host: bytes


@dataclass(frozen=True)
class Index:
    """What `registry.json` says.

    Attributes:
        models: hashes of all that were published, ascending.
        retired: those of them that are served no longer.
        aliases: {alias: hash of a served model}.
        offerings: {hash: how it is sold now} where that is not what its entry says.
    """

    models: tuple[bytes, ...] = ()
    retired: frozenset[bytes] = frozenset()
    aliases: Mapping[str, bytes] = field(default_factory=dict)
    offerings: Mapping[bytes, Offering] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if list(self.models) != sorted(set(self.models)) or len(self.models) > MAX_MODELS:
            raise ValueError(f"a registry has at most {MAX_MODELS} models, by ascending hash")
        known = frozenset(self.models)
        if not self.retired <= known or not self.offerings.keys() <= known:
            raise ValueError("what is retired or has a new price was published before")
        if len(self.aliases) > MAX_ALIASES or not known - self.retired >= set(self.aliases.values()):
            raise ValueError(f"a registry has at most {MAX_ALIASES} aliases, of models that it serves")
        for alias in self.aliases:
            require_name(alias, "an alias")

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        offerings: list[Json] = [
            [to_hex(one), sold.price.prompt, sold.price.output, _parts(sold.split), to_hex(sold.host)]
            for one, sold in sorted(self.offerings.items())
        ]
        return canonical_json({
            "schema": SCHEMA, "models": list(map(to_hex, self.models)), "retired": sorted(map(to_hex, self.retired)),
            "aliases": [[alias, to_hex(self.aliases[alias])] for alias in sorted(self.aliases)],
            "offerings": offerings,
        })  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What these canonical bytes say.

        Raises:
            ValueError: they are not those of an index.
        """
        value = parse_canonical(data, MAX_INDEX)
        try:
            if value["schema"] != SCHEMA:
                raise ValueError(f"its schema is {str(value['schema'])[:40]!r}, this version reads {SCHEMA}")
            index = cls(
                tuple(map(from_hex, value["models"])),
                frozenset(map(from_hex, value["retired"])),
                {alias: from_hex(one) for alias, one in value["aliases"]},
                {
                    from_hex(one): Offering(Price(prompt, output), Split(*split), from_hex(host, 20))
                    for one, prompt, output, split, host in value["offerings"]
                },
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"it has other fields than a registry: {error}") from None
        if index.to_bytes() != data:
            raise ValueError("it has another form than a registry")
        return index


def sold_as(model: Model, offering: Offering | None) -> Model:
    """An entry at what it costs now; None: as it was published.

    Raises:
        ValueError: members get a part, but the model has no table of their rewards.
    """
    if offering is None:
        return model
    return replace(model, price=offering.price, split=offering.split, host=offering.host)


def _parts(split: Split) -> list[Json]:
    return [split.host, split.protocol, split.owner, split.members]
