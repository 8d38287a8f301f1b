"""Integer parameters of rules, wire formats and mechanisms: what each declares, and what the terms hold of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One declared parameter.

    Attributes:
        default: what it is unless the configuration says otherwise.
        low, high: its bounds, both allowed.
    """

    default: int
    low: int
    high: int


def filled(declared: Mapping[str, Parameter], given: Mapping[str, int], where: str) -> dict[str, int]:
    """Every declared parameter with its value, by name.

    Args:
        declared: by name.
        given: those that are not to have their default.
        where: what they belong to, for people: `mechanism.parameters`.

    Raises:
        ValueError: there is no such parameter, or a value is out of its bounds.
    """
    for name in sorted(given.keys() - declared.keys()):
        known = f"it must be one of {', '.join(declared)}" if declared else "there is none"
        raise ValueError(f"{where}.{name} is no parameter; {known}")
    values = {name: given.get(name, parameter.default) for name, parameter in sorted(declared.items())}
    for name, value in values.items():
        parameter = declared[name]
        if isinstance(value, bool) or not isinstance(value, int) or not parameter.low <= value <= parameter.high:
            raise ValueError(f"{where}.{name} is {value}; it must be between {parameter.low} and {parameter.high}")
    return values
