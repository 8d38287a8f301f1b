from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from flock_ray.cluster.supervisor import (
    ALLOWED,
    Action,
    Cause,
    Fail,
    Failure,
    Move,
    Rebuild,
    Retry,
    cause_of,
    decide,
    root_cause,
)
from flock_ray.errors import (
    DataError,
    HangError,
    NodeGroupError,
    PlacementError,
    StoreError,
    TrainingError,
    WorkerMemoryError,
)
from flock_ray.store.blob_store import BlobCorruptedError
from flock_ray.store.failures import StoreUnavailableError

pytestmark = pytest.mark.ray  # its exceptions


def failures(cause: Cause, times: int, group: int = 0) -> list[Failure]:
    return [Failure(group, "train", cause, RuntimeError("what it said"), "10.0.0.5")] * times


def decided(cause: Cause, before: int, can_move: bool = True) -> Action:
    return decide(failures(cause, 1)[0], failures(cause, before), can_move)


@pytest.mark.parametrize(("cause", "error"), [
    (Cause.WORKER_DIED, NodeGroupError), (Cause.OUT_OF_MEMORY, WorkerMemoryError), (Cause.HANG, HangError),
])  # fmt: skip
def test_a_group_is_rebuilt_as_often_as_its_cause_allows(cause: Cause, error: type[Exception]) -> None:
    for before in range(ALLOWED[cause]):
        assert decided(cause, before) == Rebuild()
    last = decided(cause, ALLOWED[cause])
    assert isinstance(last, Fail) and isinstance(last.error, error)
    assert "node group 0 on 10.0.0.5 failed in phase 'train'" in str(last.error)


def test_a_lost_machine_is_replaced_while_there_is_another_and_its_hosts_move_when_there_is_none() -> None:
    assert decided(Cause.MACHINE_LOST, 50) == decided(Cause.PREEMPTED, 50) == Rebuild()
    assert decided(Cause.NO_CAPACITY, 0) == Move()
    last = decided(Cause.NO_CAPACITY, 0, can_move=False)
    assert isinstance(last, Fail) and str(last.error) == "what it said"


def test_the_store_is_asked_again_three_times_ever_later() -> None:
    waits = [decided(Cause.STORE, before) for before in range(3)]
    assert waits == [Retry(1.0), Retry(4.0), Retry(16.0)]
    assert isinstance(decided(Cause.STORE, 3), Fail)
    assert decide(failures(Cause.STORE, 1)[0], [], can_move=True, can_retry=False) == Rebuild()


@pytest.mark.parametrize("cause", [Cause.INPUT, Cause.UNEXPECTED])
def test_what_the_user_has_to_repair_is_not_tried_again(cause: Cause) -> None:
    assert isinstance(decided(cause, 0), Fail)


def test_failures_of_other_groups_and_for_other_causes_do_not_count() -> None:
    history = [*failures(Cause.WORKER_DIED, 3, group=1), *failures(Cause.STORE, 3)]
    assert decide(failures(Cause.WORKER_DIED, 1)[0], history, True) == Rebuild()


def died(text: str) -> RayActorError:
    return RayActorError("ab12", text)


@pytest.mark.parametrize(("error", "cause"), [
    (died("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"), Cause.WORKER_DIED),
    (died("Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: Task was killed"), Cause.OUT_OF_MEMORY),
    (died("The actor died because its node has died. Node Id: 7f"), Cause.MACHINE_LOST),
    (RayActorError("ab12", "its node has died", preempted=True), Cause.PREEMPTED),
    (ActorDiedError(), Cause.WORKER_DIED),
    (NodeDiedError("gone"), Cause.MACHINE_LOST),
    (ObjectLostError("ab12", None, ""), Cause.ANSWER_LOST),
    (OutOfMemoryError("low"), Cause.OUT_OF_MEMORY),
    (HangError("no answer"), Cause.HANG),
    (PlacementError("no room"), Cause.NO_CAPACITY),
    (StoreUnavailableError("slow down"), Cause.STORE),
    (StoreError("no space left on the device"), Cause.INPUT),
    (BlobCorruptedError("another hash"), Cause.INPUT),
    (DataError("line 3"), Cause.INPUT),
    (ZeroDivisionError("ours"), Cause.UNEXPECTED),
])  # fmt: skip
def test_the_cause_of_an_error(error: Exception, cause: Cause) -> None:
    assert cause_of(error) is cause


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("train", f"Traceback ...\n{type(error).__name__}: {error}", error)


def test_the_root_cause_is_the_first_error_that_no_other_rank_brought_about() -> None:
    gloo = raised(RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    ours = raised(ZeroDivisionError("division by zero"))
    assert root_cause([gloo, ours, gloo]) is ours
    assert root_cause([gloo, gloo]) is gloo
    assert cause_of(gloo, num_ranks=2) is Cause.WORKER_DIED and cause_of(gloo) is Cause.UNEXPECTED
    diverged = TrainingError("member 3: its loss is not finite")
    assert root_cause([gloo, raised(diverged)]) is diverged
