"""One state of a registry, in which models are looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from flock_ray.errors import RegistryError, UnknownModelError
from flock_ray.market.models import Model
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.price_book import LeafTable, Offer, PriceBook


@dataclass(frozen=True)
class Snapshot:
    """One state of a registry: what is read from it fits together, whatever is published meanwhile.

    Attributes:
        version: SHA-256 of `registry.json`; see `Registry.version`.
        published: all models, by ascending adapter, retired ones too.
        aliases: {alias: adapter of a served model}.
        retired: adapters of models that are served no longer.
    """

    version: bytes
    published: tuple[Model, ...]
    aliases: Mapping[str, bytes]
    retired: frozenset[bytes]

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """Those that are served, by ascending adapter."""
        return tuple(model for model in self.published if model.adapter not in self.retired)

    @cached_property
    def _by_adapter(self) -> dict[bytes, Model]:
        return {model.adapter: model for model in self.published}

    def resolve(self, text: str) -> Model:
        """The served model of an id `name@hash8`, a hash of 64 hex digits, an alias, or a name that only one has.

        Raises:
            UnknownModelError: there is none; the text says what there is.
        """
        model = self.find(text)
        if model.adapter in self.retired:
            raise UnknownModelError(f"the model {model.id} was retired: it is served no longer")
        return model

    def find(self, text: str) -> Model:
        """As `resolve`, retired ones too.

        Raises:
            UnknownModelError: there is none.
        """
        if text in self.aliases:
            return self._by_adapter[self.aliases[text]]
        digits = text.lower().removeprefix("0x")
        found = [model for model in self.published if text == model.id or digits == model.adapter.hex()]
        if not found:
            named = [model for model in self.published if model.name == text]
            found = [model for model in named if model.adapter not in self.retired] or named
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(model.id for model in found)
            raise UnknownModelError(f"{len(found)} models are named {text}: ask for one of {ids}, or set an alias")
        known = ", ".join([*sorted(self.aliases), *(model.id for model in self.models)][:8])
        raise UnknownModelError(f"there is no model {text[:80]!r} here" + (f"; there are {known}" if known else ""))

    def ancestors(self, model: Model) -> tuple[Model, ...]:
        """The published models that a model goes back to by what its run started from, the nearest first."""
        line: list[Model] = []
        while (parent := model.lineage.parent) in self._by_adapter and len(line) < len(self.published):
            assert parent is not None
            model = self._by_adapter[parent]
            line.append(model)
        return tuple(line)

    def require_base(self, base: bytes, tokenizer: bytes) -> None:
        """Check that all that is served is of one base model: a deployment has one.

        Args:
            base: hash of its weights.
            tokenizer: hash of its tokenizer and chat template.

        Raises:
            RegistryError: a model is of another.
        """
        for model in self.models:
            for what, own, other in (("base model", base, model.base), ("tokenizer", tokenizer, model.tokenizer)):
                if own != other:
                    raise RegistryError(
                        f"the {what} of {model.id} is {to_hex(other)}, this deployment's is {to_hex(own)}; serve it"
                        f" from a registry of its own, or retire it: flock-ray retire {model.id}"
                    )

    def price_book(self, gateway: bytes, protocol: bytes, extra: Iterable[Offer] = ()) -> PriceBook:
        """What all that is served costs.

        Args:
            gateway: account that signs the book, 20 bytes.
            protocol: account that gets the protocol's part, 20 bytes.
            extra: offers of what is in no registry: the base model, as `models.base_offer` has it.

        Raises:
            RegistryError: nothing is offered.
        """
        offers = sorted([*(model.offer for model in self.models), *extra], key=lambda offer: offer.model)
        try:
            return PriceBook(gateway, protocol, tuple(offers))
        except ValueError as error:
            raise RegistryError(f"the registry makes no price book: {error}") from None

    def leaf_tables(self) -> Mapping[bytes, LeafTable]:
        """{hash: rewards that members' parts are divided by}, of all that is served."""
        tables = (model.weights for model in self.models if model.weights)
        return {table.hash: table for table in tables}
