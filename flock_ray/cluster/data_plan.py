"""Whose data is where, for the plan: names of files only, which are not opened."""

from __future__ import annotations

from flock_ray.cluster.placement import num_silos
from flock_ray.config import ClusterMode, Config
from flock_ray.training.files import resolve

MAX_LINES = 64


def describe_data(config: Config) -> list[str]:
    """Which file goes to which member, a line each, where this machine hosts the members.

    Raises:
        DataError: a member has no file.
    """
    if config.data.kind != "jsonl":
        return []
    if config.cluster.mode is not ClusterMode.local:
        return [f"Data: data.path={config.data.path} is looked up on the nodes that host the members"]
    files = [f"  member {silo}: {resolve(config.data.path, silo)}" for silo in range(num_silos(config))]
    more = [f"  and {len(files) - MAX_LINES} more"] if len(files) > MAX_LINES else []
    return ["Data:", *files[:MAX_LINES], *more]
