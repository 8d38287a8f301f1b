"""The rules by name, for `aggregation.rule`."""

from __future__ import annotations

from flock_ray.aggregation.mean import Mean
from flock_ray.aggregation.rule import Rule
from flock_ray.errors import ConfigError
from flock_ray.protocol.state import Terms

RULES: dict[str, type[Rule]] = {"mean": Mean}


def get_rule(name: str) -> type[Rule]:
    """The rule of this name.

    Raises:
        ConfigError: no such rule; the text lists those that exist.
    """
    if name not in RULES:
        raise ConfigError(f"aggregation.rule is {name!r}; it must be one of {', '.join(sorted(RULES))}")
    return RULES[name]


def rule_of(terms: Terms) -> Rule:
    """A new instance of a task's rule, with its parameters."""
    return RULES[terms.rule](terms.rule_parameters)
