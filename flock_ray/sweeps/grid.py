"""The grid that a command line asks for, in Hydra's own grammar: `a=1,2`, `choice(…)`, `range(…)`, `glob(…)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from flock_ray.errors import ConfigError

MAX_POINTS = 1_000
"""Of a grid. Each is composed and checked before the first one starts, at about a tenth of a second."""

OWN = {
    "output_dir": "the runs of a sweep lie in its own folder, sweep.folder=…",
    "resume": "the same command resumes what has begun",
}
"""Settings of a run that a sweep sets, and what to do instead."""
_SINGLE = ("plan_only", "traceback")
"""Settings that say nothing about a run's results, and so are no axis."""


@dataclass(frozen=True)
class Axis:
    """A setting with several values.

    Attributes:
        name: a dotted key, or a group.
        prefix: of the override: the key with `+` or `++`, and the package of a group.
        values: as the command line of one run takes them.
    """

    name: str
    prefix: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """All combinations of the axes' values; the first axis changes slowest.

    Attributes:
        fixed: overrides that all points share.
        plan_only: whether nothing is to be started; this is no override of the points.
    """

    axes: tuple[Axis, ...]
    fixed: tuple[str, ...]
    plan_only: bool = False

    @property
    def size(self) -> int:
        """The number of points."""
        return prod(len(axis.values) for axis in self.axes)

    def points(self) -> Iterator[tuple[str, ...]]:
        """The values of the axes, for each point."""
        return product(*(axis.values for axis in self.axes))

    def overrides(self, values: Sequence[str]) -> tuple[str, ...]:
        """The command line of the run with these values."""
        return (*self.fixed, *(f"{axis.prefix}={value}" for axis, value in zip(self.axes, values, strict=True)))


def parse_grid(words: Sequence[str], loader: ConfigLoader) -> Grid:
    """The grid of these overrides.

    Args:
        words: of the command line.
        loader: of the configuration; `glob` asks it for the options of a group.

    Raises:
        ConfigError: a word is no override, cannot be swept over, is given twice, or gives too many points.
    """
    axes, fixed, seen, plan_only = list[Axis](), list[str](), dict[str, str](), False
    for word in words:
        override = _parsed(word, loader)
        name = override.key_or_group
        if name in seen:
            raise ConfigError(f"{name} is set twice, by {seen[name]!r} and {word!r}, and the first has no effect")
        seen[name] = word
        if override.is_hydra_override():
            raise ConfigError(f"{word!r} is a setting of Hydra itself, which a sweep does not take")
        if name in OWN:
            raise ConfigError(f"{word!r} has no place in a sweep: {OWN[name]}")
        if override.is_sweep_override():
            if name in _SINGLE:
                raise ConfigError(f"{word!r}: {name} has one value in a sweep, since no result depends on it")
            axes.append(Axis(name, override.get_key_element(), _values(word, override)))
        elif name == "plan_only":
            plan_only = _flag(word, override)
        else:
            fixed.append(word)
    grid = Grid(tuple(axes), tuple(fixed), plan_only)
    if grid.size > MAX_POINTS:
        raise ConfigError(f"the grid has {_count(grid)} points, and a sweep at most {MAX_POINTS:,}; sweep in parts")
    return grid


def _parsed(word: str, loader: ConfigLoader) -> Override:
    try:
        [override] = OverridesParser.create(config_loader=loader).parse_overrides([word])
    except HydraException as error:
        reason = " ".join(str(error).split()).partition(" See https")[0]
        reason = reason.removeprefix(f"Error parsing override '{word}' ")
        raise ConfigError(f"{word!r} is no override such as seed=1,2,3: {reason}") from None
    return override


def _flag(word: str, override: Override) -> bool:
    value = override.value()
    if not isinstance(value, bool):
        raise ConfigError(f"{word!r}: plan_only must be true or false")
    return value


def _values(word: str, override: Override) -> tuple[str, ...]:
    try:
        values = tuple(islice(override.sweep_string_iterator(), MAX_POINTS + 1))
    except HydraException:  # an interval
        raise ConfigError(
            f"{word!r} has no list of values; a sweep plays those of a,b,c, choice(…), range(…) and glob(…)"
        ) from None
    if not values:
        raise ConfigError(f"{word!r} has no values")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ConfigError(f"{word!r} has the value {value} twice")
    return values


def _count(grid: Grid) -> str:
    """The number of points; an axis is not read beyond its limit."""
    cut = any(len(axis.values) > MAX_POINTS for axis in grid.axes)
    return f"{'at least ' * cut}{grid.size:,}"
