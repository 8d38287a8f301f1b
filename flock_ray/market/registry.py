"""A registry: the folder of the models that a deployment serves, each named by its adapter's hash.

    registry.json                    what is served, aliases and prices: replaced as a whole, under a lock
    entries/<adapter>.json           a `Model`, written once
    adapters/<adapter>.safetensors   its canonical bytes

Aliases and prices move, hashes do not: whoever reads `registry.json` once has one state of all three. What it does not
name, such as the leftovers of a writer that was killed, is not in the registry. Whatever is read is checked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, TypeVar

from filelock import FileLock, Timeout

from flock_ray.errors import RegistryError, UnknownModelError
from flock_ray.market.models import MAX_ENTRY, Model, require_name
from flock_ray.market.registry_index import MAX_ALIASES, MAX_INDEX, MAX_MODELS, Index, Offering, sold_as
from flock_ray.market.snapshot import Snapshot
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.price_book import LeafTable, Offer, PriceBook

if TYPE_CHECKING:
    from flock_ray.serving.adapters import InFile

T = TypeVar("T")

LOCK_SECONDS = 60.0
"""How long a writer waits for another one, which holds the lock for as long as it writes a few files."""
_OWN = frozenset(("lock", "entries", "adapters"))


class Registry:
    """The folder of a registry. Any number of processes may read and write it."""

    def __init__(self, folder: Path) -> None:
        """Use `open` or `create`."""
        self.folder = folder
        self._entries: dict[bytes, Model] = {}
        self._last: Snapshot | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The registry in a folder.

        Raises:
            RegistryError: there is none, or it is damaged.
        """
        registry = cls(folder)
        registry.snapshot()
        return registry

    @classmethod
    def create(cls, folder: Path) -> Self:
        """The registry in a folder; a new one if the folder is empty or not there.

        Raises:
            RegistryError: the folder holds something else, or cannot be written.
        """
        registry = cls(folder)
        if registry.missing:
            with registry._writing():
                if registry.missing:  # nobody was quicker
                    registry._write(registry._index_path, Index().to_bytes())
        return cls.open(folder)

    @property
    def missing(self) -> bool:
        """Whether the folder holds no registry yet, and may come to hold one.

        Raises:
            RegistryError: it holds something else.
        """
        if self._index_path.exists() or not self.folder.exists():
            return not self._index_path.exists()
        try:
            others = sorted(path.name for path in self.folder.iterdir() if path.name not in _OWN)
        except OSError as error:
            raise RegistryError(f"{self.folder} is no folder of a registry: {error.strerror}") from None
        if others:
            raise RegistryError(f"{self.folder} is no registry, and not empty: it holds {others[0]}; name a new folder")
        return True

    # Reading

    def version(self) -> bytes:
        """SHA-256 of `registry.json`: another one whenever anything was published, retired, repriced or aliased."""
        return sha256(self._read_index())

    def snapshot(self) -> Snapshot:
        """The registry as it is now; the same object as before while nothing changed.

        Raises:
            RegistryError: a file is missing or damaged.
        """
        data = self._read_index()
        version = sha256(data)
        if self._last is None or self._last.version != version:
            index = self._parsed(self._index_path, lambda: Index.from_bytes(data))
            published = tuple(sold_as(self._entry(one), index.offerings.get(one)) for one in index.models)
            self._last = Snapshot(version, published, MappingProxyType(dict(index.aliases)), index.retired)
        return self._last

    def models(self) -> tuple[Model, ...]:
        """What is served, by ascending adapter."""
        return self.snapshot().models

    def resolve(self, text: str) -> Model:
        """See `Snapshot.resolve`."""
        return self.snapshot().resolve(text)

    def aliases(self) -> Mapping[str, bytes]:
        """{alias: adapter of a served model}."""
        return self.snapshot().aliases

    def price_book(self, gateway: bytes, protocol: bytes, extra: Iterable[Offer] = ()) -> PriceBook:
        """See `Snapshot.price_book`."""
        return self.snapshot().price_book(gateway, protocol, extra)

    def leaf_tables(self) -> Mapping[bytes, LeafTable]:
        """See `Snapshot.leaf_tables`."""
        return self.snapshot().leaf_tables()

    def adapter(self, model: Model) -> bytes:
        """Canonical bytes of a model's adapter.

        Raises:
            RegistryError: they are missing, or others than its hash says.
        """
        from flock_ray.lora.serialization import MAX_ADAPTER_BYTES  # slow: it imports torch

        path = self._adapter_path(model.adapter)
        data = self._read(path, MAX_ADAPTER_BYTES)
        if sha256(data) != model.adapter:
            raise RegistryError(f"{path} has other bytes than its name says: it is not served; publish {model.id} anew")
        return data

    def source(self, model: Model) -> InFile:
        """The adapter for an engine, which checks its hash again whenever it loads it.

        Raises:
            RegistryError: its bytes are missing, or others than its hash says.
        """
        from flock_ray.serving.adapters import InFile  # slow: it imports torch

        self.adapter(model)
        return InFile(self._adapter_path(model.adapter), model.lora.scaling)

    # Writing

    def publish(self, model: Model, adapter: bytes, accept: Iterable[str] = ()) -> Model:
        """Serve a model; one that was retired is served again.

        Args:
            model: its entry, which must be the published one if there is one.
            adapter: canonical bytes of its adapter.
            accept: licences of the model that are not permissive, by name: each has to be accepted.

        Raises:
            RegistryError: the bytes have another hash, the id or hash is another entry's, or a licence is not accepted.
        """
        if sha256(adapter) != model.adapter:
            raise RegistryError(f"the adapter of {model.id} has other bytes than its hash says")
        require_accepted(model, accept)
        with self._changing() as change:
            index = change.index
            if model.adapter not in index.models:
                self._add(model, index)
            elif (known := self._entry(model.adapter)) != model:
                raise RegistryError(f"the adapter is published as {known.id} already, with other terms: they stay")
            self._write(self._adapter_path(model.adapter), adapter)
            models = tuple(sorted({*index.models, model.adapter}))
            change.index = replace(index, models=models, retired=index.retired - {model.adapter})
        return model

    def _add(self, model: Model, index: Index) -> None:
        if len(index.models) >= MAX_MODELS:
            raise RegistryError(f"{self.folder} has {MAX_MODELS} models already: begin another registry")
        if any(self._entry(one).id == model.id for one in index.models):
            raise RegistryError(f"the id {model.id} is that of another adapter: take another --name")
        self._write(self._entry_path(model.adapter), model.to_bytes())
        self._entries.pop(model.adapter, None)

    def retire(self, model: Model) -> tuple[str, ...]:
        """Serve a model no longer; its entry stays, for receipts that name it. Returns the aliases that went with it.

        Raises:
            RegistryError: the registry cannot be written.
        """
        with self._changing() as change:
            index = change.index
            change.served(model)
            gone = tuple(alias for alias, one in index.aliases.items() if one == model.adapter)
            kept = {alias: one for alias, one in index.aliases.items() if one != model.adapter}
            change.index = replace(index, retired=index.retired | {model.adapter}, aliases=kept)
        return gone

    def set_alias(self, alias: str, model: Model) -> Model | None:
        """Let an alias name a served model from now on; returns the one that it named before.

        Raises:
            RegistryError: the alias has not the form of a name.
            UnknownModelError: the model is not served.
        """
        try:
            require_name(alias, "an alias")
        except ValueError as error:
            raise RegistryError(str(error)) from None
        with self._changing() as change:
            index = change.index
            change.served(model)
            before = index.aliases.get(alias)
            if before is None and len(index.aliases) >= MAX_ALIASES:
                raise RegistryError(f"{self.folder} has {MAX_ALIASES} aliases already")
            change.index = replace(index, aliases={**index.aliases, alias: model.adapter})
        return self._entry(before) if before else None

    def set_price(self, model: Model, offering: Offering) -> Model:
        """Sell a served model at another price, split or host from now on; its entry stays. Returns it as it is sold.

        Raises:
            RegistryError: members get a part, but the model has no table of their rewards.
            UnknownModelError: the model is not served.
        """
        with self._changing() as change:
            change.served(model)
            entry = self._entry(model.adapter)
            try:
                sold = sold_as(entry, offering)
            except ValueError as error:
                raise RegistryError(f"{model.id}: {error}") from None
            others = {one: other for one, other in change.index.offerings.items() if one != model.adapter}
            changed = {} if sold == entry else {model.adapter: offering}
            change.index = replace(change.index, offerings={**others, **changed})
        return sold

    # Files

    @property
    def _index_path(self) -> Path:
        return self.folder / "registry.json"

    def _entry_path(self, adapter: bytes) -> Path:
        return self.folder / "entries" / f"{adapter.hex()}.json"

    def _adapter_path(self, adapter: bytes) -> Path:
        return self.folder / "adapters" / f"{adapter.hex()}.safetensors"

    def _read_index(self) -> bytes:
        if not self._index_path.is_file():
            raise RegistryError(f"{self.folder} is no registry: registry.json is missing; flock-ray publish makes one")
        return self._read(self._index_path, MAX_INDEX)

    def _entry(self, adapter: bytes) -> Model:
        """The entry as it was published; it never changes, so it is read once."""
        if adapter not in self._entries:
            path = self._entry_path(adapter)
            data = self._read(path, MAX_ENTRY)
            model = self._parsed(path, lambda: Model.from_bytes(data))
            if model.adapter != adapter:
                raise RegistryError(f"{path} is the entry of another adapter")
            self._entries[adapter] = model
        return self._entries[adapter]

    def _read(self, path: Path, max_bytes: int) -> bytes:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
                    raise RegistryError(f"{path} is no file of at most {max_bytes} bytes")
                return file.read(max_bytes)
        except OSError as error:
            raise RegistryError(f"{path} cannot be read: {error.strerror}") from None

    def _parsed(self, path: Path, parse: Callable[[], T]) -> T:
        try:
            return parse()
        except ValueError as error:
            raise RegistryError(f"{path} is damaged: {error}") from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock; failures of the disk are errors of ours."""
        try:
            for folder in ("entries", "adapters"):
                (self.folder / folder).mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock", timeout=LOCK_SECONDS):
                yield
        except Timeout:
            raise RegistryError(f"another process has written {self.folder} for {LOCK_SECONDS:g} seconds") from None
        except OSError as error:
            raise RegistryError(f"{self.folder} cannot be written: {error.strerror}") from None

    @contextmanager
    def _changing(self) -> Iterator[_Change]:
        """The index to replace; it is written when the block ends well."""
        self._read_index()  # before a lock is made in a folder that is no registry
        with self._writing():
            data = self._read_index()
            change = _Change(self._parsed(self._index_path, lambda: Index.from_bytes(data)))
            yield change
            self._write(self._index_path, change.index.to_bytes())

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all."""
        draft = path.with_name(f".{path.name}.part")
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)


class _Change:
    """A change of the index, while the lock is held."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def served(self, model: Model) -> None:
        """Check that a model is served."""
        if model.adapter not in self.index.models:
            raise UnknownModelError(f"the registry has no model {model.id}")
        if model.adapter in self.index.retired:
            raise UnknownModelError(f"the model {model.id} was retired; publish it again first")


def require_accepted(model: Model, accept: Iterable[str]) -> None:
    """Check that every licence of a model that is not permissive is accepted by its name.

    Raises:
        RegistryError: one is not; the text says what to accept.
    """
    accepted = {licence.strip().lower() for licence in accept}
    left = [licence for licence in model.licences.to_accept if licence.lower() not in accepted]
    if left:
        told = " ".join(f"--accept {licence!r}" for licence in left)
        raise RegistryError(
            f"{model.id} stands under {model.licences.strictest!r} (base {model.licences.base!r}, data"
            f" {model.licences.data!r}, adapter {model.licences.adapter!r}): read it, and accept it with {told}"
        )
