"""The wire formats by name, for `wire_format.name`."""

from __future__ import annotations

from flock_ray.errors import ConfigError
from flock_ray.protocol.state import Terms
from flock_ray.wire_format.bf16_feedback import Bf16Feedback
from flock_ray.wire_format.dense import Dense
from flock_ray.wire_format.frozen_a import FREEZE_A, FrozenA
from flock_ray.wire_format.wire_format import WireFormat

WIRE_FORMATS: dict[str, type[WireFormat]] = {"dense": Dense, "bf16_feedback": Bf16Feedback}


def get_wire_format(name: str) -> type[WireFormat]:
    """The wire format of this name.

    Raises:
        ConfigError: no such wire format; the text lists those that exist.
    """
    if name not in WIRE_FORMATS:
        raise ConfigError(f"wire_format.name is {name!r}; it must be one of {', '.join(sorted(WIRE_FORMATS))}")
    return WIRE_FORMATS[name]


def wire_format_of(terms: Terms) -> WireFormat:
    """A task's wire format, with its parameters."""
    chosen = WIRE_FORMATS[terms.wire_format](terms.wire_format_parameters)
    return FrozenA(chosen) if FREEZE_A in terms.wire_format_parameters else chosen
