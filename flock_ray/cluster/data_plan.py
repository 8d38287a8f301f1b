"""Whose data is where: for the plan, where this machine hosts the members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flock_ray.cluster.placement import num_silos
from flock_ray.config import ClusterMode, Config
from flock_ray.telemetry.table import Console
from flock_ray.training.files import SiloFiles

if TYPE_CHECKING:
    from flock_ray.training.data import DataSpec

MAX_SILOS = 64
"""In a plan."""


def show_data(config: Config, console: Console) -> None:
    """Tell which file goes to which member; no file is opened.

    Raises:
        DataError: a member has no file.
    """
    if config.data.kind not in ("jsonl", "mixed"):
        return
    if config.cluster.mode is not ClusterMode.local:
        console.line(f"Data: data.path={config.data.path} is looked up on the nodes that host the members")
        return
    silos = range(num_silos(config))
    if config.data.kind == "mixed":
        from flock_ray.cluster.launch import data_spec  # here, for both import torch
        from flock_ray.training import mixed

        spec = data_spec(config)
        files = [f"  member {silo}: {_told(mixed.spec_of(spec, silo), silo)}" for silo in silos]
    else:
        named = SiloFiles(config.data.path)
        files = [f"  member {silo}: {named.of(silo)}" for silo in silos]
    more = [f"  and {len(files) - MAX_SILOS} more"] if len(files) > MAX_SILOS else []
    console.line("\n".join(["Data:", *files[:MAX_SILOS], *more]))


def _told(own: DataSpec, silo: int) -> str:
    """A silo of its own kind, which is there if it is a file."""
    return str(own.files.of(silo)) if own.kind == "jsonl" else f"{own.path[silo]} ({own.kind})"
