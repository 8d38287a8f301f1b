"""Starting Ray on this machine or joining a cluster, and leaving nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from flock_ray.cluster.placement import available_cpus
from flock_ray.config import ClusterConfig, ClusterMode
from flock_ray.errors import ClusterError


@contextmanager
def ray_cluster(config: ClusterConfig) -> Iterator[None]:
    """Ray for the length of a block: started here (`local`) or joined (`existing`).

    Raises:
        ClusterError: Ray does not start, or no cluster answers at `cluster.address`.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if config.mode is ClusterMode.local:
            ray.init(address="local", num_cpus=available_cpus(), include_dashboard=False, **quiet)
        else:
            ray.init(address=config.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = "Ray does not start" if config.mode is ClusterMode.local else f"no Ray cluster at {config.address!r}"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClusterError(f"{what}: {reason}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler ends the process on the spot
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def frozen_garbage_collection() -> Iterator[None]:
    """Have no garbage collection in a block look through what was loaded before it."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def machines() -> list[dict[str, float]]:
    """Resources of each living machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
