"""The coordinator as an actor on the driver's machine, so that the loss of another machine does not take it along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import count
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError

from flock_ray.cluster.attestation import AnyRecord, Attestation, Bulletin
from flock_ray.cluster.coordinator import Coordinator, CoordinatorLostError
from flock_ray.cluster.deadlines import Deadlines
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.runtime import here
from flock_ray.cluster.waiting import WatchedActor
from flock_ray.errors import ClusterError, HangError
from flock_ray.protocol.message import SignedMessage
from flock_ray.protocol.state import TaskState

T = TypeVar("T")

_Actor = ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"health": 1})(Coordinator)


class CoordinatorActor:
    """Methods are those of `Coordinator`; each raises CoordinatorLostError when the actor died or hangs."""

    def __init__(
        self, number: int, deadlines: Deadlines, start_timeout: float, tell: Callable[[str], None], args: Sequence[Any]
    ) -> None:
        """Start it.

        Args:
            number: how many-th coordinator of the run.
            deadlines: what calls may take.
            start_timeout: seconds that its process may take to start.
            tell: takes a line for people.
            args: of `Coordinator`.
        """
        name = "coordinator" if number == 1 else f"coordinator-{number}"
        actor = _Actor.options(name=name, scheduling_strategy=here()).remote(*args)
        self._watched = WatchedActor(actor, "coordinator", deadlines, start_timeout, tell)

    def begin(self, task: RunningTask) -> None:
        """Take up a task."""
        self._ask("begin", task)

    def collect(self, messages: Sequence[SignedMessage], kind: StrEnum) -> list[str]:
        """Take messages; why some were dropped."""
        dropped: list[str] = self._ask("collect", messages, kind)
        return dropped

    def bulletin(self) -> ObjectRef[Bulletin]:
        """Where the messages so far are: they go from the coordinator to the nodes, and never come here."""
        bulletin: ObjectRef[Bulletin] = self._watched.actor.bulletin.remote()
        self._ask("size")  # answered after it: a coordinator that died is noticed here, not by the nodes
        return bulletin

    def look(self, read: Callable[..., T], *args: Any) -> T:
        """`read(state, messages so far, *args)`, there."""
        found: T = self._ask("look", read, *args)
        return found

    def tally(self) -> tuple[Any, Bulletin]:
        """The proposed record, and its messages."""
        tallied: tuple[Any, Bulletin] = self._ask("tally")
        return tallied

    def attest(self, record: AnyRecord, signatures: dict[int, bytes]) -> tuple[Attestation, TaskState]:
        """Join the signatures; the attestation and the next state."""
        attested: tuple[Attestation, TaskState] = self._ask("attest", record, signatures)
        return attested

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return self._watched.call(method, *args)
        except RayActorError as error:
            raise CoordinatorLostError(ClusterError(f"the coordinator died in {method}")) from error
        except HangError as error:
            ray.kill(self._watched.actor)
            raise CoordinatorLostError(error) from error


def coordinator_actors(
    deadlines: Deadlines, start_timeout: float, tell: Callable[[str], None], *args: Any
) -> Callable[[], CoordinatorActor]:
    """What starts one coordinator after the other; see `CoordinatorActor`."""
    numbers = count(1)
    return lambda: CoordinatorActor(next(numbers), deadlines, start_timeout, tell, args)
