"""Compares claims with recomputed values and names the first difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flock_ray.errors import VerificationError

_SHOWN = 120  # characters of a value in an error


def require_equal(claimed: Any, expected: Any, what: str) -> None:
    """Compare a claim with the recomputed value, part by part; a claimed object may have more fields.

    Args:
        claimed: JSON value of a run folder, or a value of a chain.
        expected: what follows from the signed messages; of an object only its keys are compared.
        what: name of the claim, for the error.

    Raises:
        VerificationError: they differ.
    """
    if isinstance(expected, Mapping) and isinstance(claimed, Mapping):
        for key, value in expected.items():
            if key not in claimed:
                raise VerificationError(f"{what}.{key} is missing; found {_short(value)}")
            require_equal(claimed[key], value, f"{what}.{key}")
    elif isinstance(expected, list | tuple) and isinstance(claimed, list | tuple) and len(expected) == len(claimed):
        for index, value in enumerate(expected):
            require_equal(claimed[index], value, f"{what}[{index}]")
    elif type(claimed) is not type(expected) or claimed != expected:
        raise VerificationError(f"{what}: claimed {_short(claimed)}, found {_short(expected)}")


def require(condition: bool, what: str) -> None:
    """Raise VerificationError with `what` unless the condition holds."""
    if not condition:
        raise VerificationError(what)


def _short(value: object) -> str:
    text = " ".join(("0x" + value.hex() if isinstance(value, bytes) else str(value)).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
