"""The models that a gateway answers with: the registry as it is now, and which of its adapters the engine has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass

from flock_ray.errors import RegistryError
from flock_ray.market.engines import EngineClient
from flock_ray.market.models import BASE, Model
from flock_ray.market.registry import Registry
from flock_ray.market.settings import Settings
from flock_ray.market.snapshot import Snapshot
from flock_ray.protocol.price_book import Offer, PriceBook

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A model that can be asked, at what it costs now.

    Attributes:
        id: `name@hash8`, or `base`.
        offer: of the price book.
        book: the price book.
        entry: of the registry; None for the base model.
    """

    id: str
    offer: Offer
    book: PriceBook
    entry: Model | None

    @property
    def adapter(self) -> bytes | None:
        """By which an engine knows it."""
        return self.entry.adapter if self.entry else None


class Catalogue:
    """Looks models up, and keeps the engine's adapters those of the registry."""

    def __init__(self, registry: Registry, engine: EngineClient, settings: Settings) -> None:
        """Nothing is loaded until it is asked for, or `watch` runs."""
        self._registry, self._engine, self._settings = registry, engine, settings
        self._last = registry.snapshot()
        self._trouble = ""
        self._books: tuple[bytes, PriceBook] | None = None
        self._loads: dict[bytes, asyncio.Task[None]] = {}

    def snapshot(self) -> Snapshot:
        """The registry as it is now; as it was last, while its folder cannot be read."""
        try:
            self._last, self._trouble = self._registry.snapshot(), ""
        except RegistryError as error:
            if str(error) != self._trouble:  # once, not with every request
                self._trouble = str(error)
                LOG.error("%s", error)
        return self._last

    def book(self) -> PriceBook:
        """What everything costs now.

        Raises:
            RegistryError: nothing is served.
        """
        snapshot, settings = self.snapshot(), self._settings
        if self._books is None or self._books[0] != snapshot.version:
            extra = () if settings.base is None else (settings.base,)
            self._books = snapshot.version, snapshot.price_book(settings.gateway, settings.protocol, extra)
        return self._books[1]

    def resolve(self, text: str) -> Served:
        """The model of an id, a hash, an alias, a name that only one has, or `base`.

        Raises:
            UnknownModelError: there is none, or it was retired.
        """
        base = self._settings.base
        if base is not None and text in (BASE, base.model.hex()):
            return Served(BASE, base, self.book(), None)
        entry = self.snapshot().resolve(text)
        return Served(entry.id, entry.offer, self.book(), entry)

    def all(self) -> list[Served]:
        """Everything that can be asked: the base model first, then by ascending adapter."""
        entries = self.snapshot().models
        if not entries and self._settings.base is None:
            return []
        book = self.book()
        base = [] if self._settings.base is None else [Served(BASE, self._settings.base, book, None)]
        return base + [Served(entry.id, entry.offer, book, entry) for entry in entries]

    async def ready(self, served: Served) -> None:
        """Wait until the engine knows a model's adapter; what is loaded already needs no waiting.

        Raises:
            AdapterError: it does not load.
        """
        if served.entry is not None:
            await self._load(served.entry)

    def forget(self, served: Served) -> None:
        """The engine does not know it after all: it was started anew, say."""
        if served.entry is not None:
            self._loads.pop(served.entry.adapter, None)

    async def _load(self, entry: Model) -> None:
        """Load an adapter once, whoever waits for it, and whichever of those go away."""
        task = self._loads.get(entry.adapter)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._loads[entry.adapter] = asyncio.ensure_future(self._engine.load(entry))
        await asyncio.shield(task)

    async def watch(self) -> None:
        """Follow the registry until cancelled: load what is new, and unload what was retired."""
        seen: bytes | None = None
        while True:
            snapshot = self.snapshot()
            if snapshot.version != seen:
                seen = snapshot.version
                await self._follow(snapshot)
            await asyncio.sleep(self._settings.poll_seconds)

    async def _follow(self, snapshot: Snapshot) -> None:
        served = {entry.adapter: entry for entry in snapshot.models}
        for adapter in self._loads.keys() - served.keys():
            self._loads.pop(adapter)
            await self._tried(self._engine.unload(adapter), adapter.hex())
        for entry in served.values():
            await self._tried(self._load(entry), entry.id)

    async def _tried(self, work: Awaitable[None], name: str) -> None:
        """Do it; what fails is told, and tried again when somebody asks for the model."""
        try:
            await work
        except Exception as error:  # whatever an engine raises: others are to be loaded still
            LOG.error("the adapter of %s: %s: %s", name, type(error).__name__, error)
