"""The mechanisms by name, for `mechanism.name`."""

from __future__ import annotations

from flock_ray.protocol.flock import Flock
from flock_ray.protocol.marginal import Marginal
from flock_ray.protocol.marginal1 import Marginal1
from flock_ray.protocol.mechanism import Mechanism
from flock_ray.protocol.open import Open

MECHANISMS: dict[str, Mechanism] = {
    "marginal": Marginal(),
    "marginal1": Marginal1(),
    "flock": Flock(),
    "open": Open(),
}


def get_mechanism(name: str) -> Mechanism:
    """The mechanism of that name.

    Raises:
        ValueError: with the names that exist.
    """
    if name not in MECHANISMS:
        raise ValueError(f"mechanism.name is {name!r}; it must be one of {', '.join(MECHANISMS)}")
    return MECHANISMS[name]
