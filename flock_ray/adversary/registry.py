"""The attacks by name, for `adversary.attack`."""

from __future__ import annotations

from flock_ray.adversary.attack import Attack
from flock_ray.adversary.malformed import NotANumber, WrongDtype, WrongShape
from flock_ray.adversary.sign_flip import SignFlip
from flock_ray.errors import ConfigError

ATTACKS: dict[str, type[Attack]] = {
    "none": Attack,
    "sign_flip": SignFlip,
    "nan": NotANumber,
    "wrong_shape": WrongShape,
    "wrong_dtype": WrongDtype,
}


def get_attack(name: str, scale: float) -> Attack:
    """The attack of this name with this strength.

    Raises:
        ConfigError: no such attack; the text lists those that exist.
    """
    if name not in ATTACKS:
        raise ConfigError(f"adversary.attack is {name!r}; it must be one of {', '.join(sorted(ATTACKS))}")
    return ATTACKS[name](scale)
