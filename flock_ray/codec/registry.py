"""The codecs by name, for `codec.name`."""

from __future__ import annotations

from flock_ray.codec.codec import Codec
from flock_ray.codec.dense import Dense
from flock_ray.errors import ConfigError

CODECS: dict[str, Codec] = {"dense": Dense()}


def get_codec(name: str) -> Codec:
    """The codec of this name.

    Raises:
        ConfigError: no such codec; the text lists those that exist.
    """
    if name not in CODECS:
        raise ConfigError(f"codec.name is {name!r}; it must be one of {', '.join(sorted(CODECS))}")
    return CODECS[name]
