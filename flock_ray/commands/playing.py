"""What `flock-ray alliance` and `flock-ray arena` share around a run: whether it fits, its folder, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flock_ray.cluster.placement import Plan, available_cpus
from flock_ray.cluster.pruning import prune
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.commands.guard import lead
from flock_ray.commands.outcome import explained
from flock_ray.config import ClusterConfig, ClusterMode, StoreConfig
from flock_ray.telemetry.table import Console


def check_local_fit(plan: Plan, cluster: ClusterConfig) -> None:
    """Refuse what this machine's cores are too few for, before Ray starts; its GPUs are counted by Ray.

    Raises:
        PlacementError: the plan does not fit.
    """
    if cluster.mode is ClusterMode.local:
        enough = float(cluster.gpus_per_worker * len(plan.nodes) * plan.workers)
        plan.check_fit([{"CPU": float(available_cpus()), "GPU": enough}])


def is_whole(run: RunDirectory | None, store: StoreConfig, console: Console) -> bool:
    """Whether an earlier run is complete, which is told; its folder is pruned as far as it was not."""
    if run is None or not run.whole:
        return False
    prune(run, store, console.line)
    console.line(f"The run in {run.path} is complete already; nothing to do.")
    return True


@contextmanager
def run_folder(
    run: RunDirectory | None, create: Callable[[], RunDirectory], console: Console
) -> Iterator[RunDirectory]:
    """The folder to play in: of an earlier run, or a new one that is gone again if no task was created.

    Args:
        run: the earlier run, if one is resumed.
        create: makes the folder of a new one.
        console: where it is told how to go on after an interrupt.

    Raises:
        FlockRayError: what the run raised, with the words that say how to go on.
    """
    resumed = run is not None
    if run is not None:
        console.line(f"Run folder: {run.path}")
    run = run or create()
    if run.started or not resumed:
        lead(run.path, run.made)
    try:
        yield run
    except KeyboardInterrupt:
        console.close()
        if run.started:
            console.line(f"Interrupted; go on with: resume={run.path}")
        raise
    except Exception as error:
        console.close()
        told = explained(error, run.path if run.started else None)
        if told is error:
            raise
        raise told from error
    finally:
        if not (run.started or resumed):
            run.discard()
