"""The points of a sweep, from the words of its command line: composed, checked, and each with a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from flock_ray.commands.composed import conf_folder
from flock_ray.config import (
    ArenaConfig,
    ChainBackend,
    Config,
    arena_problems,
    explain_bad_key,
    problems,
    register,
    typed,
    typed_arena,
)
from flock_ray.errors import ConfigError, FlockRayError
from flock_ray.store.files import plain
from flock_ray.sweeps.grid import Axis, Grid, parse_grid
from flock_ray.sweeps.identity import point_id
from flock_ray.sweeps.point import Point


@dataclass(frozen=True)
class Job:
    """A command that a sweep plays.

    Attributes:
        name: of the command.
        config_name: of the file in `conf/`.
        schema: of its configuration.
    """

    name: str
    config_name: str
    schema: type[Any]

    def typed(self, composed: DictConfig) -> Config | ArenaConfig:
        """The typed configuration."""
        return typed(composed) if self.schema is Config else typed_arena(composed)


_MANY = 50
"""Points that are checked in some seconds."""

JOBS = {"alliance": Job("alliance", "config", Config), "arena": Job("arena", "arena", ArenaConfig)}


def read_points(job: Job, words: Sequence[str], code: str, tell: Callable[[str], None]) -> tuple[Grid, list[Point]]:
    """The grid that the words ask for, and its points in order.

    Args:
        job: that plays them.
        words: overrides.
        code: see `code_version`.
        tell: prints a line, where there are so many points that it takes a while.

    Raises:
        ConfigError: a word is wrong, a point would be refused, or two are the same.
    """
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        grid = parse_grid(words, GlobalHydra.instance().config_loader())
        if grid.size > _MANY:
            tell(f"Checking {grid.size} points")
        points = [_point(job, grid, values, code) for values in grid.points()]
    _refuse_bad(points)
    _refuse_same(points)
    return grid, points


def _point(job: Job, grid: Grid, values: Sequence[str], code: str) -> Point:
    overrides = grid.overrides(values)
    try:
        composed = compose(job.config_name, list(overrides))
    except Exception as error:
        raise ConfigError(_where(grid, values, explain_bad_key(error, job.schema))) from None
    try:
        config = job.typed(composed)
    except ConfigError as error:
        raise type(error)(_where(grid, values, str(error))) from None
    settings = {axis.name: _value(axis, text, composed) for axis, text in zip(grid.axes, values, strict=True)}
    return Point(point_id(job.name, config, code), job.name, settings, overrides, config)


def _where(grid: Grid, values: Sequence[str], error: str) -> str:
    """An error, after the point that has it; without that where there is only one."""
    label = " ".join(f"{axis.name}={value}" for axis, value in zip(grid.axes, values, strict=True))
    return f"the point {label}: {error}" if label else error


def _value(axis: Axis, text: str, composed: DictConfig) -> Any:
    """The value of an axis as plain data: of a group the name of its option, else what the configuration has."""
    if (conf_folder() / axis.name).is_dir() and (conf_folder() / axis.name / f"{text}.yaml").is_file():
        return text
    value = OmegaConf.select(composed, axis.name)
    return plain(OmegaConf.to_container(value, resolve=True, enum_to_str=True) if OmegaConf.is_config(value) else value)


def _refuse_bad(points: Sequence[Point]) -> None:
    """Refuse what a run would refuse, before any runs."""
    refused = [(point, wrong[0]) for point in points if (wrong := _problems(point.config))]
    for point, error in refused[:1]:
        many = f"{len(refused)} of {len(points)} points are refused; " if len(points) > 1 else ""
        raise type(error)(f"{many}{point.label}: {error}" if point.settings else str(error))


def _problems(config: Config | ArenaConfig) -> Sequence[FlockRayError]:
    if isinstance(config, ArenaConfig):
        return arena_problems(config)
    if wrong := problems(config):
        return wrong
    from flock_ray.cluster.preflight import check_names  # imports Ray and torch

    try:
        check_names(config)
    except FlockRayError as error:
        return [error]
    return []


def _refuse_same(points: Sequence[Point]) -> None:
    seen: dict[str, Point] = {}
    for point in points:
        if (other := seen.setdefault(point.id, point)) is not point:
            raise ConfigError(
                f"{other.label} and {point.label} give the same configuration, so that they would be one run; leave out"
                " the axis or the value that has no effect"
            )


def why_one_at_a_time(points: Sequence[Point]) -> str:
    """What several points would need at a time and there is once; empty if there is no such thing.

    Raises:
        ConfigError: points would remove each other's blobs.
    """
    if len(points) < 2:
        return ""
    stores = [point.config.store for point in points]
    if not all(store.shared or not store.url for store in stores):
        raise ConfigError(
            "the points of a sweep share store.url, and store.shared=false has each remove all others' blobs"
        )
    chains = [point.config.chain for point in points]
    if any(chain.backend is ChainBackend.rpc for chain in chains):
        return "the accounts of creator and relayer on the chain, which count their transactions"
    ports: Mapping[int, int] = {chain.port: 1 for chain in chains if chain.port}
    return f"chain.port={next(iter(ports))}" if ports else ""
