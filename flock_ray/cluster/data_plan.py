"""Whose data is where: for the plan, where this machine hosts the members."""

from __future__ import annotations

from flock_ray.cluster.placement import num_silos
from flock_ray.config import ClusterMode, Config
from flock_ray.telemetry.table import Console
from flock_ray.training.files import resolve

MAX_SILOS = 64
"""In a plan."""


def show_data(config: Config, console: Console) -> None:
    """Tell which file goes to which member; no file is opened.

    Raises:
        DataError: a member has no file.
    """
    if config.data.kind != "jsonl":
        return
    if config.cluster.mode is not ClusterMode.local:
        console.line(f"Data: data.path={config.data.path} is looked up on the nodes that host the members")
        return
    silos = range(num_silos(config))
    files = [f"  member {silo}: {resolve(config.data.path, silo)}" for silo in silos]
    more = [f"  and {len(files) - MAX_SILOS} more"] if len(files) > MAX_SILOS else []
    console.line("\n".join(["Data:", *files[:MAX_SILOS], *more]))
