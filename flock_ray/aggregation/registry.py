"""The rules by name, for `aggregation.rule`."""

from __future__ import annotations

from flock_ray.aggregation.centered_clipping import CenteredClipping
from flock_ray.aggregation.coordinatewise import CoordinateMedian, TrimmedMean
from flock_ray.aggregation.geometric_median import GeometricMedian
from flock_ray.aggregation.krum import Krum, MultiKrum
from flock_ray.aggregation.mean import Mean
from flock_ray.aggregation.rule import Rule
from flock_ray.errors import ConfigError
from flock_ray.protocol.state import Terms

RULES: dict[str, type[Rule]] = {
    "mean": Mean,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "geometric_median": GeometricMedian,
    "centered_clipping": CenteredClipping,
    "coordinate_median": CoordinateMedian,
    "trimmed_mean": TrimmedMean,
}


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


def require_usable(rule: Rule, name: str, num_proposers: int, freeze_a: bool) -> None:
    """Refuse a rule that could never make a candidate, or not one that means something.

    Args:
        rule: with its parameters.
        name: of the rule.
        num_proposers: most updates of an epoch.
        freeze_a: whether all members share A.

    Raises:
        ConfigError: it needs more updates, or a shared A.
    """
    if num_proposers < rule.fewest:
        malicious = rule.values.get("num_malicious")  # not every rule counts them
        bound = "" if malicious is None else f" with num_malicious = {malicious}"
        lower = "" if malicious is None else ", or lower aggregation.parameters.num_malicious"
        raise ConfigError(
            f"alliance.num_proposers is {num_proposers}; aggregation.rule={name}{bound} needs at least {rule.fewest}"
            f" updates; raise it{lower}"
        )
    if rule.entrywise and not freeze_a:
        raise ConfigError(
            f"aggregation.rule={name} compares entries of factors, which mean the same to all members only if they"
            " share A; set lora.freeze_a=true, or take a rule such as geometric_median"
        )
