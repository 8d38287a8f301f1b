"""What to do when a node group fails: policies that only decide; `groups.py` acts.

The model is Ray Train's controller with its failure policy: one decision a failure, from its cause and from what failed
before it since the last signed epoch. The group is rebuilt whole; Ray's own restarts stay off.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ray.exceptions import (
    ActorUnschedulableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)

from flock_ray.errors import (
    FlockRayError,
    HangError,
    NodeGroupError,
    PlacementError,
    WorkerMemoryError,
)
from flock_ray.store.failures import StoreUnavailableError


class Cause(Enum):
    """Why a node group failed."""

    WORKER_DIED = "a worker's process died"
    ANSWER_LOST = "an answer was lost with the process or machine that held it"
    MACHINE_LOST = "its machine was lost"
    PREEMPTED = "its machine was taken away"
    OUT_OF_MEMORY = "a worker ran out of memory"
    HANG = "a worker hangs"
    STORE = "the store did not answer"
    NO_CAPACITY = "no machine has room for it"
    INPUT = "what only its user can repair"
    UNEXPECTED = "an unexpected error"


@dataclass(frozen=True)
class Failure:
    """One failure of a node group.

    Attributes:
        group: its number.
        phase: that it failed in.
        cause: why.
        error: what it raised, or what the driver saw.
        where: the machine, for people.
    """

    group: int
    phase: str
    cause: Cause
    error: Exception
    where: str = ""


@dataclass(frozen=True)
class Retry:
    """Ask the group for the phase again, after so many seconds."""

    after: float


@dataclass(frozen=True)
class Rebuild:
    """Stop the group, place it anew and ask it again."""


@dataclass(frozen=True)
class Move:
    """Give up the group: the others take over its logical hosts."""


@dataclass(frozen=True)
class Fail:
    """End the run with this error."""

    error: Exception


Action = Retry | Rebuild | Move | Fail

ALLOWED = {Cause.WORKER_DIED: 3, Cause.ANSWER_LOST: 3, Cause.OUT_OF_MEMORY: 1, Cause.HANG: 1, Cause.STORE: 3}
"""How often a group may fail for a cause before a signed epoch; those not named: without limit, or never (below)."""

_UNLIMITED = (Cause.MACHINE_LOST, Cause.PREEMPTED)
_BACK_OFF = (1.0, 4.0, 16.0)  # seconds before the store is asked again


def decide(failure: Failure, history: Sequence[Failure], can_move: bool, can_retry: bool = True) -> Action:
    """What to do about a failure.

    Args:
        failure: that just happened.
        history: failures before it since the last signed epoch, of all groups.
        can_move: whether another group lives that may carry the failed one's hosts.
        can_retry: whether the group may be asked again as it is: of several ranks, others may wait for the one that
            failed.
    """
    cause = failure.cause
    before = sum(earlier.group == failure.group and earlier.cause is cause for earlier in history)
    if cause is Cause.NO_CAPACITY:
        return Move() if can_move else Fail(failure.error)
    if cause in _UNLIMITED:
        return Rebuild()
    if before >= ALLOWED.get(cause, 0):
        return Fail(_final(failure, before + 1))
    return Retry(_BACK_OFF[before]) if cause is Cause.STORE and can_retry else Rebuild()


def _final(failure: Failure, times: int) -> Exception:
    """The error that a run ends with when a group failed once too often."""
    where = f" on {failure.where}" if failure.where else ""
    told = f"node group {failure.group}{where} failed in phase {failure.phase!r}"
    if failure.cause in (Cause.WORKER_DIED, Cause.ANSWER_LOST):
        return NodeGroupError(f"{told}: {failure.cause.value}, {times} times without a signed epoch in between")
    if failure.cause is Cause.OUT_OF_MEMORY:
        return WorkerMemoryError(f"{told}: {failure.error}")
    if failure.cause is Cause.HANG:
        return HangError(f"{told}: {failure.error}, {times} times without a signed epoch in between")
    return failure.error


def cause_of(error: Exception, num_ranks: int = 1) -> Cause:
    """The cause of what Ray, a worker of a group with so many ranks, or the driver raised."""
    if num_ranks > 1 and _is_collateral(error):
        return Cause.WORKER_DIED  # another rank, which did not come to say so
    if isinstance(error, HangError):
        return Cause.HANG
    if isinstance(error, PlacementError):
        return Cause.NO_CAPACITY
    if isinstance(error, OutOfMemoryError):
        return Cause.OUT_OF_MEMORY
    if isinstance(error, StoreUnavailableError):
        return Cause.STORE
    if isinstance(error, FlockRayError):
        return Cause.INPUT
    if isinstance(error, ObjectLostError):
        return Cause.ANSWER_LOST
    if isinstance(error, NodeDiedError | ActorUnschedulableError):
        return Cause.MACHINE_LOST
    if isinstance(error, RayActorError):
        return _cause_of_death(error)
    return Cause.UNEXPECTED


def _cause_of_death(error: RayActorError) -> Cause:
    """Why an actor died: Ray says so in the text of its error only."""
    text = str(error)
    if error.preempted:
        return Cause.PREEMPTED
    if "OUT_OF_MEMORY" in text:
        return Cause.OUT_OF_MEMORY
    if re.search(r"node (has )?died|node was (terminated|drained)|NODE_DIED", text):
        return Cause.MACHINE_LOST
    return Cause.WORKER_DIED


def root_cause(errors: Sequence[Exception]) -> Exception:
    """Of what the ranks of a group raised, in the order in which it came, the error that brought the others about.

    A rank that fails takes its peers' collectives and connections with it: the first error of another kind counts.
    """
    causes = [own_error(error) for error in errors]
    return next((cause for cause in causes if not _is_collateral(cause)), causes[0])


def own_error(error: Exception) -> Exception:
    """A worker's own error rather than Ray's wrapping of it; another exception stays wrapped with its traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return cause if isinstance(cause, FlockRayError) else error


_COLLATERAL = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|DistBackendError|ConnectionError|process group",
    re.IGNORECASE,
)


def _is_collateral(error: Exception) -> bool:
    """Whether an error of a rank tells only that it lost another one."""
    text = str(error).strip().splitlines()[-1:]  # of a traceback the last line names the error
    return any(_COLLATERAL.search(line) for line in text)
