"""The rules by name, for `aggregation.rule`."""

from __future__ import annotations

from flock_ray.aggregation.mean import Mean
from flock_ray.aggregation.rule import Rule
from flock_ray.errors import ConfigError

RULES: dict[str, Rule] = {"mean": Mean()}


def get_rule(name: str) -> Rule:
    """The rule of this name.

    Raises:
        ConfigError: no such rule; the text lists those that exist.
    """
    if name not in RULES:
        raise ConfigError(f"aggregation.rule is {name!r}; it must be one of {', '.join(sorted(RULES))}")
    return RULES[name]
