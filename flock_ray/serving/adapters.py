"""Adapters that an engine knows: by hash, checked whenever they are read, so that no other answers in their place."""

from __future__ import annotations

import threading
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch
import torch

from flock_ray.errors import AdapterError, UnknownAdapterError
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, Shapes, adapter_hash
from flock_ray.protocol.encoding import to_hex


class AdapterSource(Protocol):
    """Where an adapter comes from, as often as it is loaded."""

    @property
    def scaling(self) -> float:
        """What multiplies B A: alpha / rank."""

    def read(self) -> Adapter:
        """Its factors.

        Raises:
            AdapterError: they do not read.
        """


@dataclass(frozen=True)
class InMemory:
    """An adapter that stays in host memory."""

    adapter: Adapter
    scaling: float

    def read(self) -> Adapter:
        """Its factors."""
        return self.adapter


@dataclass(frozen=True)
class InFile:
    """An adapter in a file of canonical bytes, as runs save it: `adapter_model.safetensors`."""

    path: Path
    scaling: float

    def read(self) -> Adapter:
        """Its factors; see `AdapterSource`."""
        try:
            return dict(sorted(safetensors.torch.load_file(self.path).items()))
        except (OSError, safetensors.SafetensorError) as error:
            raise AdapterError(f"{self.path} does not read: {error}") from None


def require_served(adapter: Adapter, scaling: float, shapes: Shapes, max_rank: int) -> None:
    """Check that an adapter adds something to the layers of this base model, and to nothing else.

    Args:
        adapter: may leave layers out.
        scaling: what multiplies B A.
        shapes: of all layers, of any rank.
        max_rank: largest rank that is served.

    Raises:
        AdapterError: it does not.
    """
    if not adapter:
        raise AdapterError("the adapter has no factors: it would answer as the base model")
    if not 0 < abs(scaling) < float("inf"):
        raise AdapterError(f"the adapter's scaling (alpha / rank) is {scaling}; it must be finite and not 0")
    for key, factor in adapter.items():
        if key not in shapes:
            raise AdapterError(
                f"the adapter holds {key[:120]}, which is no factor of this model's layers ({min(shapes)}, …)"
            )
        other = key.removesuffix(LORA_A) + LORA_B if key.endswith(LORA_A) else key.removesuffix(LORA_B) + LORA_A
        if other not in adapter:
            raise AdapterError(f"the adapter holds {key} without {other}")
        rank_at = 0 if key.endswith(LORA_A) else 1
        shape, width = tuple(factor.shape), shapes[key][1 - rank_at]
        if len(shape) != 2 or shape[1 - rank_at] != width or adapter[other].dim() != 2:
            raise AdapterError(
                f"the adapter is of another base model: {key} has shape {list(shape)}, this one needs"
                f" {['rank', width] if rank_at == 0 else [width, 'rank']}"
            )
        rank = shape[rank_at]
        if rank != adapter[other].shape[1 - rank_at] or not 1 <= rank <= max_rank:
            raise AdapterError(f"{key} has rank {rank}; both factors must have one from 1 to {max_rank}")
        if factor.dtype != torch.float32 or not bool(torch.isfinite(factor).all()):
            raise AdapterError(f"{key} must be float32 and finite; it is {factor.dtype}, or has an entry that is not")


def require_known(adapter: bytes | None, known: Container[bytes]) -> None:
    """Check that an adapter is among those that are served; None, the base model, always is.

    Raises:
        UnknownAdapterError: it is not.
    """
    if adapter is not None and adapter not in known:
        raise UnknownAdapterError(f"no adapter {to_hex(adapter)} is served here; add it first")


class Library:
    """The adapters that may be asked for, by hash; safe from any thread."""

    def __init__(self, shapes: Shapes, max_rank: int) -> None:
        """None yet; `shapes` and `max_rank` are as in `require_served`."""
        self._shapes, self._max_rank = shapes, max_rank
        self._sources: dict[bytes, AdapterSource] = {}
        self._lock = threading.Lock()

    def add(self, source: AdapterSource) -> bytes:
        """Check an adapter and take it in; see `Engine.add_adapter`."""
        adapter = source.read()
        require_served(adapter, source.scaling, self._shapes, self._max_rank)
        digest = adapter_hash(adapter)
        with self._lock:
            known = self._sources.setdefault(digest, source)
        if known.scaling != source.scaling:  # another model, though its factors are the same
            raise AdapterError(
                f"the adapter {to_hex(digest)} is served with the scaling {known.scaling:g}, not {source.scaling:g};"
                " discard it first"
            )
        return digest

    def discard(self, adapter: bytes) -> None:
        """Forget one, if it is known."""
        with self._lock:
            self._sources.pop(adapter, None)

    def require(self, adapter: bytes) -> AdapterSource:
        """The source of an adapter.

        Raises:
            UnknownAdapterError: it is not known.
        """
        with self._lock:
            require_known(adapter, self._sources)
            return self._sources[adapter]


def read_checked(source: AdapterSource, adapter: bytes) -> Adapter:
    """The factors of a source, if they are still those of this hash.

    Raises:
        AdapterError: they are others, or do not read.
    """
    factors = source.read()
    if adapter_hash(factors) != adapter:
        raise AdapterError(f"what is read for the adapter {to_hex(adapter)} has another hash; add it anew")
    return factors
