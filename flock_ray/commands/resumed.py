"""A run that is resumed keeps its own settings, but for those that its bytes do not depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from functools import reduce
from operator import attrgetter
from pathlib import Path
from typing import Any

from flock_ray.cluster.run_directory import RunDirectory, load_arena_config, load_config
from flock_ray.config import ArenaConfig, Config, check, check_arena, valid_keys
from flock_ray.errors import ConfigError

FREE = frozenset(
    (
        "resume", "plan_only", "traceback", "model.path", "data.path", "contest.data", "store.keep", "store.shared",
        "chain.url", "chain.keystore", "chain.port", "chain.confirmation_timeout", "chain.outage_patience",
        "chain.max_fee_gwei", "chain.finality",
        "cluster.mode", "cluster.address", "cluster.nodes", "cluster.cpus_per_worker", "cluster.hosts_move",
        "cluster.placement_timeout", "cluster.load_timeout", "cluster.phase_floor", "cluster.head_timeout",
        "training.zero_persistence_threshold",
    )
)  # fmt: skip
"""Settings that a resumed run takes from its command line: where things are, how long to wait, what is shown or kept.

The weights of `model.path` have a hash of their own, which is compared. All others shape the bytes of a run, or were
agreed on by its members: the number of torch threads or of a group's ranks, for example, changes the last bits of sums.
"""

SHOWN = 4
"""Of the settings that differ from the run's."""


def open_run(config: Config, named: Mapping[str, bool]) -> tuple[Config, RunDirectory]:
    """The run to resume, with its own configuration except for what is named now and may differ.

    Args:
        config: as composed now, with `resume`.
        named: {key that the command line sets: whether by itself, not by a group's option}. Of an option only
            `cluster.mode` is taken: the rest of it says what is usual in a new run.

    Raises:
        RunDirectoryError: there is no run.
        ConfigError: the run would ignore what is named; the text has the run's values.
    """
    run = RunDirectory.open(Path(config.resume).expanduser())
    resumed: Config = _resumed(config, load_config(run.path), named, run.path)
    check(resumed)
    return resumed, run


def open_arena(config: ArenaConfig, named: Mapping[str, bool]) -> tuple[ArenaConfig, RunDirectory]:
    """As `open_run`, of a contest."""
    run = RunDirectory.open(Path(config.resume).expanduser())
    resumed: ArenaConfig = _resumed(config, load_arena_config(run.path), named, run.path)
    check_arena(resumed)
    return resumed, run


def _resumed(config: Any, earlier: Any, named: Mapping[str, bool], path: Path) -> Any:
    """The earlier configuration with what is named now and may differ."""
    by_itself = {key: _by_itself(key, named) for key in valid_keys(type(config))}
    asked = [key for key, how in by_itself.items() if how is not None]
    differing = [key for key in asked if attrgetter(key)(config) != attrgetter(key)(earlier)]
    kept = [f"{key} is {_shown(attrgetter(key)(earlier))}" for key in differing if key not in FREE]
    if kept:
        more = f" and {len(kept) - SHOWN} more" if len(kept) > SHOWN else ""
        raise ConfigError(
            f"a resumed run keeps its settings: {', '.join(kept[:SHOWN])}{more} in this run ({path}); leave out"
            " what differs, or start a new run with it"
        )
    taken = [key for key in differing if by_itself[key] or key == "cluster.mode"]
    resumed = reduce(lambda changed, key: _with(changed, key, attrgetter(key)(config)), taken, earlier)
    return replace(resumed, resume=config.resume, plan_only=config.plan_only, traceback=config.traceback)


def _by_itself(key: str, named: Mapping[str, bool]) -> bool | None:
    """Whether this key, one inside of its mapping or its group is set by itself; None if nothing sets it."""
    how = [alone for name, alone in named.items() if f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.")]
    return any(how) if how else None


def _with(config: Any, key: str, value: Any) -> Any:
    """The configuration with another value of one key."""
    group, _, name = key.rpartition(".")
    return replace(config, **({group: replace(getattr(config, group), **{name: value})} if group else {name: value}))


def _shown(value: Any) -> str:
    """A value as the command line takes it."""
    return str(value.value) if isinstance(value, Enum) else str(value) if str(value) else "empty"
