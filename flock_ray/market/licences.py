"""Licences of a model's parts, and which of them binds most: the strictest is what users are told.

Names are the identifiers of SPDX and of the Hugging Face hub, in lower case. What is no such name may be any text, and
counts as strictest: nobody knows what it allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

from flock_ray.protocol.encoding import Json

UNKNOWN = "unknown"
MAX_LICENCE = 100


class Strictness(IntEnum):
    """What a licence asks of those who use the model or pass it on; each rung forbids more than the one before."""

    permissive = 0
    share_alike = 1
    restricted_use = 2
    non_commercial = 3
    closed = 4


_NAMES: Mapping[Strictness, tuple[str, ...]] = {
    Strictness.permissive: (
        "cc0-1.0", "unlicense", "0bsd", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "zlib", "psf-2.0", "python-2.0",
        "apache-2.0", "ms-pl", "pddl", "odc-by", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cdla-permissive-1.0",
        "cdla-permissive-2.0",
    ),
    Strictness.share_alike: (
        "mpl-2.0", "epl-2.0", "lgpl-2.1", "lgpl-3.0", "gpl-2.0", "gpl-3.0", "agpl-3.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
        "odbl", "cdla-sharing-1.0",
    ),
    Strictness.restricted_use: (
        "openrail", "openrail++", "bigscience-openrail-m", "bigcode-openrail-m", "creativeml-openrail-m", "gemma",
        "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "cc-by-nd-4.0",
    ),
    Strictness.non_commercial: (
        "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "apple-amlr",
        "intel-research", "fair-noncommercial-research-license",
    ),
    Strictness.closed: ("proprietary",),
}  # fmt: skip
_ORDER = {name: place for place, name in enumerate(name for names in _NAMES.values() for name in names)}
_STRICTNESS = {name: strictness for strictness, names in _NAMES.items() for name in names}


def licence_name(text: str) -> str:
    """A licence as it is kept: a known name in lower case, any other text as it is.

    Raises:
        ValueError: it is empty, too long, or more than one line of printable characters.
    """
    text = text.strip()
    if not 0 < len(text) <= MAX_LICENCE or not text.isprintable():
        raise ValueError(f"a licence is a name or a line of 1 to {MAX_LICENCE} printable characters")
    return text.lower() if text.lower() in _ORDER else text


def strictness(licence: str) -> Strictness:
    """What a licence asks; `closed` of one that is not known."""
    return _STRICTNESS.get(licence, Strictness.closed)


def strictest(licences: Iterable[str]) -> str:
    """The one that binds most; of several that nobody knows, the first by its text.

    Raises:
        ValueError: there is none.
    """
    return min(licences, key=lambda licence: (-_ORDER.get(licence, len(_ORDER)), licence))


@dataclass(frozen=True)
class Licences:
    """Licences of a model's parts; see `licence_name` for their form.

    Attributes:
        base: of the base model.
        data: of what it was trained on.
        adapter: of the adapter.
    """

    base: str
    data: str
    adapter: str

    def __post_init__(self) -> None:
        for licence in self.parts:
            if type(licence) is not str or licence_name(licence) != licence:
                raise ValueError(f"{str(licence)[:MAX_LICENCE]!r} is no licence as a registry keeps it")

    @property
    def parts(self) -> tuple[str, str, str]:
        """Of base, data and adapter."""
        return self.base, self.data, self.adapter

    @property
    def strictest(self) -> str:
        """The one that binds most."""
        return strictest(self.parts)

    @property
    def to_accept(self) -> tuple[str, ...]:
        """Those that whoever publishes or uses the model has to accept by name, strictest first; none if permissive."""
        asking = {licence for licence in self.parts if strictness(licence) > Strictness.permissive}
        return tuple(sorted(asking, key=lambda licence: (-_ORDER.get(licence, len(_ORDER)), licence)))

    def as_json(self) -> dict[str, Json]:
        """As in an entry of a registry."""
        return {"base": self.base, "data": self.data, "adapter": self.adapter}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Licences of an entry.

        Raises:
            TypeError, ValueError: they are none.
        """
        return cls(**value)
