"""Worker groups on Ray: STRICT_PACK placement groups with one actor a worker, and their first supervisor.

A phase runs on all groups at once; results come in finish order. A group that dies is rebuilt whole, once, and asked
again: phases are pure functions of state and bulletin, so the answer is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from flock_ray.cluster.interrupts import check_interrupted
from flock_ray.cluster.placement import Plan
from flock_ray.cluster.spec import GroupInfo, GroupSpec
from flock_ray.cluster.worker import Worker
from flock_ray.errors import FlockRayError, NodeGroupError, PlacementError
from flock_ray.training.device import GPU_ENVIRONMENT

Progress = Callable[[str, int, int], None]


class NodeGroup:
    """The workers of one node.

    Attributes:
        spec: what they host.
        rebuilt: whether the group died once already.
    """

    def __init__(self, spec: GroupSpec, plan: Plan, name: str, timeout: float, node: type[Worker] = Worker) -> None:
        self.spec = spec
        self.rebuilt = False
        self._plan, self._name, self._timeout = plan, name, timeout
        self._actor = ray.remote(concurrency_groups={"health": 1})(node)
        self._actors: list[Any] = []
        self._placement: PlacementGroup | None = None

    def start(self) -> list[Any]:
        """Reserve the bundles, create the actors, load; returns one reference a rank, rank 0 first.

        Raises:
            PlacementError: the cluster did not give the bundles in time.
        """
        bundles = [self._plan.bundle()] * self._plan.workers
        self._placement = placement_group(bundles, strategy="STRICT_PACK", name=self._name)
        if not self._placement.wait(self._timeout):
            raise PlacementError(
                f"{self._name}: no machine gave {len(bundles)} x {bundles[0]} within {self._timeout:g} s"
                " (cluster.placement_timeout)"
            )
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
        self._actors = [
            self._actor.options(
                num_cpus=self._plan.cpus,
                num_gpus=self._plan.gpus,
                max_restarts=0,
                name=f"{self._name}-{rank}",
                runtime_env={"env_vars": environment},
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._placement, rank),
            ).remote(self.spec, rank)
            for rank in range(self._plan.workers)
        ]
        host, port = ray.get(self._actors[0].free_address.remote())
        return self.call("load", host, port, self._plan.workers)

    def call(self, method: str, *args: Any) -> list[Any]:
        """Ask every rank; returns their references, rank 0 first."""
        return [getattr(actor, method).remote(*args) for actor in self._actors]

    def progress(self) -> tuple[str, int, int] | None:
        """What rank 0 does just now, None when it does not answer at once."""
        if not self._actors:
            return None
        ref = self._actors[0].progress.options(concurrency_group="health").remote()
        done, _ = ray.wait([ref], timeout=0.5)
        try:
            return ray.get(done[0]) if done else None
        except RayActorError:
            return None

    def stop(self) -> None:
        """Kill the actors and give the bundles back."""
        for actor in self._actors:
            ray.kill(actor)
        if self._placement is not None:
            remove_placement_group(self._placement)
        self._actors, self._placement = [], None


class NodeGroups:
    """All node groups of a run."""

    def __init__(
        self,
        specs: Sequence[GroupSpec],
        plan: Plan,
        timeout: float,
        report: Callable[..., None],
        node: type[Worker] = Worker,
    ) -> None:
        """Describe the groups.

        Args:
            specs: one a group.
            plan: the placement plan.
            timeout: seconds to wait for placement.
            report: takes (kind, **fields) of events.
            node: class of a worker.
        """
        self._groups = [NodeGroup(spec, plan, f"node-{index}", timeout, node) for index, spec in enumerate(specs)]
        self._report = report
        self._begin: tuple[Any, ...] | None = None
        self._states: dict[int, tuple[str, int, int]] = {}
        self._shown = 0.0
        self._told = ("", 0, 0)
        self.progress: Progress = lambda phase, done, total: None

    def start(self) -> list[GroupInfo]:
        """Start and load all groups; one report a group, in the order of the plan."""
        pending = {index: group.start() for index, group in enumerate(self._groups)}
        return [report for _, report in sorted(self._gather(pending, "load", ()))]

    def begin(self, *args: Any) -> Iterator[tuple[int, Any]]:
        """Take up a task: like `run("begin", …)`, and what a rebuilt group is told first."""
        self._begin = args
        return self.run("begin", *args)

    def resume_from(self, *args: Any) -> None:
        """What a group rebuilt from now on is told first: the state that the running epoch started from."""
        self._begin = args

    def run(self, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        """One phase on all groups: (index, rank 0's result) in finish order.

        Args:
            method: the phase.
            args: of the phase, or references to them.

        Raises:
            FlockRayError: what a node raised; NodeGroupError: a group died twice.
        """
        shared = [arg if isinstance(arg, ray.ObjectRef) else ray.put(arg) for arg in args]
        pending = {index: group.call(method, *shared) for index, group in enumerate(self._groups)}
        return self._gather(pending, method, tuple(shared))

    def _gather(self, asked: dict[int, list[Any]], method: str, args: tuple[Any, ...]) -> Iterator[tuple[int, Any]]:
        waiting = {ref: (index, rank) for index, refs in asked.items() for rank, ref in enumerate(refs)}
        answers: dict[int, Any] = {}
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=1.0)
            check_interrupted()
            self._show_progress(sorted({index for index, _ in waiting.values()}))
            for ref in ready:
                index, rank = waiting[ref]
                try:
                    answer = ray.get(ref)
                except RayActorError as error:
                    again = self._rebuild(index, method, args, error)
                    waiting = {other: place for other, place in waiting.items() if place[0] != index}
                    waiting |= {other: (index, rank) for rank, other in enumerate(again)}
                    continue
                except RayTaskError as error:
                    raise root_cause(error) from None
                del waiting[ref]
                if rank == 0:
                    answers[index] = answer
                if all(group != index for group, _ in waiting.values()):
                    yield index, answers.pop(index)

    def _rebuild(self, index: int, method: str, args: tuple[Any, ...], error: RayActorError) -> list[Any]:
        group = self._groups[index]
        if group.rebuilt:
            raise NodeGroupError(f"node group {index} died twice, the second time in phase {method!r}") from error
        self._report("node_group_rebuilt", group=index, phase=method)
        group.rebuilt = True
        group.stop()
        try:
            loaded = group.start()
            if method == "load":
                return loaded
            ray.get(loaded)
            if self._begin is not None and method != "begin":
                ray.get(group.call("begin", *self._begin))
            return group.call(method, *args)
        except RayActorError as again:
            raise NodeGroupError(f"node group {index} died twice, the second time while it was rebuilt") from again
        except RayTaskError as failed:
            raise root_cause(failed) from None

    def _show_progress(self, pending: Sequence[int]) -> None:
        now = time.monotonic()
        if now - self._shown < 1.0:
            return
        self._shown = now
        for index in pending:
            if state := self._groups[index].progress():
                self._states[index] = state
        phases = [self._states[index][0] for index in pending if index in self._states]
        alike = [state for state in self._states.values() if phases and state[0] == phases[0]]
        done, total = sum(state[1] for state in alike), sum(state[2] for state in alike)
        if total and (phases[0], done, total) != self._told:
            self._told = phases[0], done, total
            self.progress(*self._told)

    def stop(self) -> None:
        """Stop all groups."""
        for group in self._groups:
            group.stop()


def root_cause(error: RayTaskError) -> Exception:
    """A node's own error rather than Ray's wrapping of it; another exception stays wrapped with its traceback."""
    cause = error.cause
    return cause if isinstance(cause, FlockRayError) else error
