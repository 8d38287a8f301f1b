"""Claimed against found, with the name of the first thing that differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flock_ray.errors import VerificationError

_SHOWN = 120  # characters of a value in an error


def hold(claimed: Any, found: Any, what: str) -> None:
    """Compare a claim with what was found here, part by part; a claim may have fields that nobody can find.

    Args:
        claimed: JSON value of a run folder, or a value of a chain.
        found: what the signed messages give; of an object only its keys are compared.
        what: name of the claim, for the error.

    Raises:
        VerificationError: they differ.
    """
    if isinstance(found, Mapping) and isinstance(claimed, Mapping):
        for key, value in found.items():
            if key not in claimed:
                raise VerificationError(f"{what}.{key} is missing; found {_short(value)}")
            hold(claimed[key], value, f"{what}.{key}")
    elif isinstance(found, list | tuple) and isinstance(claimed, list | tuple) and len(found) == len(claimed):
        for index, value in enumerate(found):
            hold(claimed[index], value, f"{what}[{index}]")
    elif type(claimed) is not type(found) or claimed != found:
        raise VerificationError(f"{what}: claimed {_short(claimed)}, found {_short(found)}")


def require(condition: bool, what: str) -> None:
    """Raise VerificationError with `what` unless the condition holds."""
    if not condition:
        raise VerificationError(what)


def _short(value: object) -> str:
    text = " ".join(("0x" + value.hex() if isinstance(value, bytes) else str(value)).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
