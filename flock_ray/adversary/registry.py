"""The behaviours by name, for `adversary.attack` and `adversary.members`."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour
from flock_ray.adversary.collude import Collude
from flock_ray.adversary.malformed import NotANumber, WrongDtype, WrongShape
from flock_ray.adversary.sign_flip import SignFlip
from flock_ray.errors import ConfigError

BEHAVIOURS: dict[str, type[Behaviour]] = {
    "none": Behaviour,
    "sign_flip": SignFlip,
    "collude": Collude,
    "nan": NotANumber,
    "wrong_shape": WrongShape,
    "wrong_dtype": WrongDtype,
}


def get_behaviour(name: str, where: str = "adversary.attack") -> type[Behaviour]:
    """The behaviour of this name.

    Args:
        name: of the behaviour.
        where: the configuration key that names it.

    Raises:
        ConfigError: no such behaviour; the text lists those that exist.
    """
    if name not in BEHAVIOURS:
        raise ConfigError(f"{where} is {name!r}; it must be one of {', '.join(sorted(BEHAVIOURS))}")
    return BEHAVIOURS[name]
