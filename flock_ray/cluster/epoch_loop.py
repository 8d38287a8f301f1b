"""The loop of epochs that an alliance and a contest share: coordinator, signing, settlement, going back.

What an epoch is made of says a subclass: `propose` has its phases.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from flock_ray.chain.values import EpochAbandonedError
from flock_ray.cluster.attestation import AnyRecord, Attestation, Bulletin, Settlement
from flock_ray.cluster.coordinator import CoordinatorLostError
from flock_ray.cluster.ledger import Ledger
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.phases import AnyBulletin, Phases, Results
from flock_ray.cluster.run_directory import SignedEpoch
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.spec import PhaseResult
from flock_ray.errors import ChainError
from flock_ray.protocol.message import SignedMessage
from flock_ray.protocol.state import TaskState

T = TypeVar("T")

MAX_COORDINATORS = 3
"""That may be lost one after the other in an epoch before the run ends."""

REMEMBERED = 100
"""Epochs that a run can go back when the chain turns out to have abandoned one; a resumed run goes back further."""

Arrivals = Callable[[Results], Results]


class AnyCoordinator(Protocol):
    """A `Coordinator`, in this process or as an actor; each call may raise CoordinatorLostError."""

    def begin(self, task: RunningTask) -> None:
        """Take up a task."""

    def collect(self, messages: Sequence[SignedMessage], kind: StrEnum) -> list[str]:
        """Take messages; why some were dropped."""

    def bulletin(self) -> AnyBulletin:
        """The messages so far."""

    def look(self, read: Callable[..., T], *args: Any) -> T:
        """`read(state, messages so far, *args)`, where the messages are."""

    def tally(self) -> tuple[Any, Bulletin]:
        """The proposed record, and its messages."""

    def attest(self, record: AnyRecord, signatures: dict[int, bytes]) -> tuple[Attestation, TaskState]:
        """Join the signatures; the attestation and the next state."""


class Journal(Protocol):
    """Where signed epochs are kept before they are settled; `RunDirectory` is one."""

    def write_epoch(
        self, record: Any, attestation: Attestation, bulletin: Bulletin, wall_seconds: Mapping[str, float]
    ) -> None:
        """Keep a signed epoch."""

    def write_settlement(self, settlement: Settlement) -> None:
        """Keep how it was settled."""

    def write_abandoned(self, first: int, following: int) -> None:
        """Keep that the epochs from `first` to before `following` are void."""


class EpochLoop(ABC):
    """Runs the epochs of one task. Holds references and signed messages, never tensors or data."""

    def __init__(
        self,
        nodes: Phases,
        new_coordinator: Callable[[], AnyCoordinator],
        ledger: Ledger,
        journal: Journal,
        observer: Observer,
        max_unsettled: int,
        arrivals: Arrivals = lambda results: results,
    ) -> None:
        """Join the parts.

        Args:
            nodes: loaded.
            new_coordinator: starts one, and another when it is lost.
            ledger: where epochs are settled.
            journal: where signed epochs are kept.
            observer: sees what happens.
            max_unsettled: how many epochs may be open while the next one goes on.
            arrivals: order in which results reach the coordinator; tests shuffle it.
        """
        self.nodes, self.ledger, self.journal, self.observer = nodes, ledger, journal, observer
        self.max_unsettled, self.arrivals = max_unsettled, arrivals
        self._new_coordinator = new_coordinator
        self.coordinator = new_coordinator()
        self._before: dict[int, TaskState] = {}  # what each epoch started from, to go back to

    @abstractmethod
    def begin(self, task: RunningTask) -> None:
        """Every node takes up the task."""

    @abstractmethod
    def propose(self, task: RunningTask) -> tuple[Any, Bulletin]:
        """All messages of an epoch, and the record that the coordinator derives from them."""

    def follow_members(self, task: RunningTask) -> RunningTask:
        """The task with the changes of its members that are due before its epoch."""
        return task

    def before_start(self, task: RunningTask) -> RunningTask:
        """The task with the changes of its members that a resumed run has to know before anybody begins."""
        return task

    def run(self, task: RunningTask, earlier: Iterable[SignedEpoch] = ()) -> TaskState:
        """All epochs from `task` on; `earlier` are those signed by an earlier run, settled again where it is open."""
        for epoch in earlier:
            self._before[epoch.state.epoch] = epoch.state
            if epoch.settlement is None:
                self.ledger.settle(epoch.state, epoch.record, epoch.attestation)
        task = self.before_start(task)
        self._with_coordinator(self.begin, task)
        while True:
            task = self._follow_chain(task, at_most_open=self.max_unsettled)
            task = self.follow_members(task)
            if not task.state.finished:
                task = self._with_coordinator(self.epoch, task)
                continue
            task = self._follow_chain(task, at_most_open=0)
            if task.state.finished:
                self.observer.finished(task.state)
                return task.state

    def epoch(self, task: RunningTask) -> RunningTask:
        """One epoch: its phases, then it is signed; its settlement goes on behind the next one."""
        record, bulletin = self.propose(task)
        attestation, following = self._sign(record, bulletin)
        self.journal.write_epoch(record, attestation, bulletin, self._wall_seconds())
        self.nodes.epoch_signed()
        self.ledger.settle(task.state, record, attestation)

        if not following.finished:
            self.nodes.place(task.at(following))
        losses: dict[int, float] = {}
        for _, result in self._results("advance", self.nodes.advance(attestation, bulletin)):
            losses |= result.losses
        self.observer.epoch_ends(record, losses, self._wall_seconds())
        return task.at(following)

    def _epoch_begins(self, task: RunningTask) -> None:
        """Start the clocks, and remember what the epoch starts from."""
        self._started, self._seconds = time.perf_counter(), dict[str, float]()
        self._remember(task.state)
        self.nodes.resume_from(task)
        self.observer.epoch_begins(task.state)

    def _remember(self, state: TaskState) -> None:
        self._before[state.epoch] = state
        self._before.pop(state.epoch - REMEMBERED, None)

    def exchange(self, phase: str, kind: StrEnum, results: Results) -> AnyBulletin:
        """One phase: its messages, of this kind, go to the coordinator as they come; the bulletin after it."""
        for _, result in self._results(phase, results):
            for reason in self.coordinator.collect(result.messages, kind):
                self.observer.event("message_dropped", {"phase": phase, "reason": reason})
        return self.coordinator.bulletin()

    def _sign(self, record: AnyRecord, bulletin: Bulletin) -> tuple[Attestation, TaskState]:
        """Have the voters derive the record themselves and sign its report; a quorum makes it final."""
        signatures: dict[int, bytes] = {}
        for _, result in self._results("sign", self.nodes.sign(record.data, bulletin)):
            signatures |= result.signatures
        return self.coordinator.attest(record, signatures)

    def _results(self, phase: str, results: Results) -> Results:
        """Results of a phase in the order of arrival, their events told and their seconds counted."""
        slowest: dict[str, float] = {}
        for index, result in self.arrivals(results):
            self._note(result)
            for kind, seconds in result.seconds.items():
                slowest[kind] = max(slowest.get(kind, 0.0), seconds)
            yield index, result
        for kind, seconds in slowest.items():
            self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    def _note(self, result: PhaseResult) -> None:
        self.observer.opened(result.opened)
        for kind, fields in result.events:
            self.observer.event(kind, fields)

    def _wall_seconds(self) -> dict[str, float]:
        """The epoch's time so far by kind of work; what no node counted is overhead."""
        elapsed = time.perf_counter() - self._started
        return self._seconds | {"overhead": max(0.0, elapsed - sum(self._seconds.values()))}

    def _with_coordinator(self, work: Callable[[RunningTask], T], task: RunningTask) -> T:
        """`work(task)`, again with another coordinator when it is lost: members repeat what they signed."""
        lost: CoordinatorLostError | None = None
        for _ in range(MAX_COORDINATORS):
            try:
                if lost:
                    self.coordinator = self._new_coordinator()
                    self.begin(task)
                return work(task)
            except CoordinatorLostError as error:
                lost = error
                self.observer.event("coordinator_lost", {"epoch": task.state.epoch, "error": str(error)})
                self.observer.line(f"{error}; epoch {task.state.epoch} is played again with another coordinator")
        assert lost
        raise lost.error from lost

    def _follow_chain(self, task: RunningTask, at_most_open: int) -> RunningTask:
        """Note what is settled. An abandoned epoch voids what was signed from it on: back to where the chain is."""
        try:
            for settlement in self.ledger.settled(at_most_open):
                self.journal.write_settlement(settlement)
                self.observer.settled(settlement)
        except EpochAbandonedError as abandoned:
            first = abandoned.epoch
            if first not in self._before:
                raise ChainError(
                    f"epoch {first} was abandoned after more than {REMEMBERED} later ones were signed; go on with"
                    " resume=RUN_DIR"
                ) from None
            state = self.ledger.follow(self._before[first])
            silos = {number: silo for number, silo in task.silos.items() if number < len(state.members)}
            task = replace(task, state=state, silos=silos)
            self.journal.write_abandoned(first, state.epoch)
            self.observer.abandoned(first, state.epoch)
            self._with_coordinator(self.begin, task)
        return task
