"""One node group on Ray: a STRICT_PACK placement group with one actor a worker."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from flock_ray.cluster.placement import Plan, spans
from flock_ray.cluster.signing_worker import SigningWorker
from flock_ray.cluster.spec import HostSpec
from flock_ray.cluster.worker import Worker
from flock_ray.errors import PlacementError
from flock_ray.training.device import GPU_ENVIRONMENT


class NodeGroup:
    """The workers of one node group.

    Attributes:
        spec: what they are to host.
        carried: the logical hosts that they carry; None while they are not loaded.
        where: the machine that they are on, once placed; memory: bytes that Ray counts there for workers.
    """

    def __init__(self, spec: HostSpec, plan: Plan, name: str, worker: type[SigningWorker] = Worker) -> None:
        self.spec, self.where, self.memory = spec, "", 0.0
        self.carried: dict[int, tuple[int, ...]] | None = None
        self._plan, self._name = plan, name
        self._actor = ray.remote(concurrency_groups={"health": 1})(worker)
        self._actors: list[Any] = []
        self._placement: PlacementGroup | None = None

    def reserve(self) -> None:
        """Ask for the bundles; `placed` tells when they are there."""
        bundles = [self._plan.bundle()] * self._plan.workers
        self._placement = placement_group(bundles, strategy="STRICT_PACK", name=self._name)

    def placed(self) -> bool:
        """Whether the bundles are there; creates the actors once they are.

        Ray's table is asked, since `wait` takes whole seconds only: with less it may say no for ever.
        """
        assert self._placement is not None
        table = placement_group_table(self._placement)
        if table["state"] != "CREATED":
            return False
        placed_on = table["bundles_to_node_id"][0]
        machine: dict[str, Any] = next((node for node in ray.nodes() if node["NodeID"] == placed_on), {})
        self.where = f"{machine.get('NodeManagerAddress', 'an unknown address')} (Ray node {placed_on[:12]})"
        self.memory = machine.get("Resources", {}).get("memory", 0.0)
        self._actors = [self._create(rank) for rank in range(self._plan.workers)]
        return True

    def _create(self, rank: int) -> Any:
        environment = {
            "OMP_NUM_THREADS": str(self._plan.threads),
            "TOKENIZERS_PARALLELISM": "false",
            **GPU_ENVIRONMENT,
            "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve each other where cores are shared
            "MALLOC_MMAP_THRESHOLD_": "1000000000",  # activations come back from the heap, not from the kernel:
            "MALLOC_TRIM_THRESHOLD_": "8000000000",  # a step is a fifth faster
            "MALLOC_TOP_PAD_": "100000000",
            "MALLOC_ARENA_MAX": "1",  # the heap of the main thread; those of others give back all that is large
        }
        return self._actor.options(
            num_cpus=self._plan.cpus,
            num_gpus=self._plan.gpus,
            max_restarts=0,
            name=f"{self._name}-{rank}",
            runtime_env={"env_vars": environment},
            scheduling_strategy=PlacementGroupSchedulingStrategy(self._placement, rank),
        ).remote(self.spec, rank)

    def lacking(self, timeout: float) -> PlacementError:
        """The error of a group that was not placed in time."""
        return PlacementError(
            f"{self._name}: no machine gave {self._plan.workers} x {self._plan.bundle()} within {timeout:g} s"
            " (cluster.placement_timeout)"
        )

    def call(self, method: str, *args: Any) -> list[Any]:
        """Ask every rank; returns their references, rank 0 first. Only rank 0 opens the rendezvous."""
        actors = self._actors[:1] if method == "open_rendezvous" else self._actors
        return [getattr(actor, method).remote(*args) for actor in actors]

    def ask_vitals(self) -> list[Any]:
        """References to every rank's vitals, which are answered beside a running phase."""
        return [actor.vitals.options(concurrency_group="health").remote() for actor in self._actors]

    def describe(self) -> str:
        """The group for people."""
        where = f" on {self.where}" if self.where else ""
        return f"node group {self.spec.index} (hosts {spans(tuple(self.spec.hosts))}{where})"

    def stop(self) -> None:
        """Kill the actors and give the bundles back."""
        for actor in self._actors:
            ray.kill(actor)
        if self._placement is not None:
            remove_placement_group(self._placement)
        self._actors, self._placement, self.carried = [], None, None
