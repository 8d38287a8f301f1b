"""FL Alliance: the epoch loop, as the protocol has it. Everything else stands behind nodes, coordinator and ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError

from flock_ray.chain.values import EpochAbandonedError
from flock_ray.cluster.attestation import Attestation
from flock_ray.cluster.coordinator import Bulletin, Coordinator
from flock_ray.cluster.groups import NodeGroups
from flock_ray.cluster.ledger import Ledger
from flock_ray.cluster.run_directory import RunDirectory, SignedEpoch
from flock_ray.cluster.run_reporter import RunReporter
from flock_ray.cluster.runtime import here
from flock_ray.cluster.spec import PhaseResult, RunningTask
from flock_ray.cluster.waiting import WatchedActor
from flock_ray.config import AllianceConfig, AskedChange
from flock_ray.errors import ClusterError, FlockRayError, HangError
from flock_ray.protocol.message import Kind
from flock_ray.protocol.record import Record
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import MemberState, TaskState
from flock_ray.telemetry.events import EventLog

CoordinatorActor = ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"health": 1})(Coordinator)

MAX_COORDINATORS = 3
"""That may be lost one after the other in an epoch before the run ends."""

T = TypeVar("T")
Arrivals = Callable[[Iterable[tuple[int, PhaseResult]]], Iterable[tuple[int, PhaseResult]]]


class CoordinatorLostError(Exception):
    """The coordinator died or hangs.

    Attributes:
        error: what a run ends with that loses one after the other.
    """

    def __init__(self, error: FlockRayError) -> None:
        super().__init__(str(error))
        self.error = error


class Alliance:
    """Runs the epochs of one task. Holds references and signed messages, never tensors or data."""

    def __init__(
        self,
        nodes: NodeGroups,
        ledger: Ledger,
        run: RunDirectory,
        events: EventLog,
        reporter: RunReporter,
        alliance: AllianceConfig,
        owners: Mapping[str, int],
        start_timeout: float,
        arrivals: Arrivals = lambda results: results,
    ) -> None:
        """Join the parts.

        Args:
            nodes: started and loaded node groups.
            ledger: where epochs are settled.
            run: folder of the run.
            events: log of the run.
            reporter: shows and keeps what happens.
            alliance: how many epochs may be open while the next one trains, and who comes and goes when.
            owners: {account: its silo} of everybody whose key and data are in this run.
            start_timeout: seconds that the coordinator may take to start.
            arrivals: order in which results reach the coordinator; tests shuffle it.
        """
        self.nodes, self.ledger, self.run_directory = nodes, ledger, run
        self.events, self.reporter, self.max_unsettled = events, reporter, alliance.max_unsettled
        self.joins, self.leaves, self.owners = alliance.joins, alliance.leaves, owners
        self.start_timeout, self.arrivals = start_timeout, arrivals
        self._coordinators = 0
        self._start_coordinator()
        self._before: dict[int, TaskState] = {}  # what each epoch started from, to go back to

    def run(self, task: RunningTask, earlier: list[SignedEpoch]) -> TaskState:
        """All epochs from `task` on; `earlier` are those signed by an earlier run, settled again where it is open."""
        for epoch in earlier:
            self._before[epoch.state.epoch] = epoch.state
            if epoch.settlement is None:
                self.ledger.settle(epoch.state, epoch.record, epoch.attestation)
        self._with_coordinator(self._begin, task)
        while True:
            task = self._follow_chain(task, at_most_open=self.max_unsettled)
            task = self._follow_members(task)
            if task.state.finished:
                task = self._follow_chain(task, at_most_open=0)
                if task.state.finished:
                    self.reporter.finished(task.state)
                    return task.state
            else:
                task = self._with_coordinator(self._epoch, task)

    def _start_coordinator(self) -> None:
        """The coordinator lies on the driver's machine, so that the loss of another one does not take it along."""
        self._coordinators += 1
        name = "coordinator" if self._coordinators == 1 else f"coordinator-{self._coordinators}"
        actor = CoordinatorActor.options(name=name, scheduling_strategy=here()).remote()
        self.coordinator = WatchedActor(
            actor, "coordinator", self.nodes.deadlines, self.start_timeout, self.reporter.line
        )

    def _with_coordinator(self, work: Callable[[RunningTask], T], task: RunningTask) -> T:
        """`work(task)`, again with another coordinator when it is lost: members repeat what they signed."""
        lost: CoordinatorLostError | None = None
        for _ in range(MAX_COORDINATORS):
            try:
                if lost:
                    self._start_coordinator()
                    self._begin(task)
                return work(task)
            except CoordinatorLostError as error:
                lost = error
                self.events.emit("coordinator_lost", epoch=task.state.epoch, error=str(error))
                self.reporter.line(f"{error}; epoch {task.state.epoch} is played again with another coordinator")
                ray.kill(self.coordinator.actor)
        assert lost
        raise lost.error from lost

    def _begin(self, task: RunningTask) -> None:
        """Every node takes up the task and measures the global adapter on its members' held-out parts."""
        self._ask("begin", task)
        if not task.state.finished:
            self.nodes.place(task)
        losses, slowest = self._losses(self.nodes.begin(task))
        self.nodes.deadlines.estimate = self.reporter.evaluated(task.state.epoch - 1, losses, slowest)

    def _follow_members(self, task: RunningTask) -> RunningTask:
        """Have members ask to come or go whose time it is; let those in and out whose changes are due."""
        epoch = task.state.epoch
        joins, leaves = _asked(self.joins, epoch), _asked(self.leaves, epoch)
        if (joins or leaves) and not task.state.finished:
            task = self._follow_chain(task, at_most_open=0)
            if task.state.epoch == epoch:
                self.ledger.ask_changes(joins, leaves, self.nodes)
        changes, joined = self.ledger.changes(task.state)
        if not changes:
            return task
        task = self._changed(task, changes, joined)
        self.reporter.members_changed(task, changes)
        if not task.state.finished:
            self._with_coordinator(self._begin, task)
        return task

    def _changed(self, task: RunningTask, changes: Sequence[Change], joined: Sequence[MemberState]) -> RunningTask:
        numbered = enumerate(joined, start=len(task.state.members))
        silos = {number: self.owners[member.account] for number, member in numbered if member.account in self.owners}
        return task.changed(changes, joined, silos)

    def _losses(self, results: Iterable[tuple[int, PhaseResult]]) -> tuple[dict[int, float], float]:
        """{member: held-out loss}, and the seconds that the slowest node took."""
        losses: dict[int, float] = {}
        slowest = 0.0
        for _, result in results:
            self._note(result)
            losses |= result.losses
            slowest = max(slowest, result.seconds.get("evaluate", 0.0))
        return losses, slowest

    def _epoch(self, task: RunningTask) -> RunningTask:
        """One epoch: roles, train, score, candidate, decide, sign; its settlement goes on behind the next one."""
        state = task.state
        self._started, self._seconds = time.perf_counter(), dict[str, float]()
        self._before[state.epoch] = state
        self.nodes.resume_from(task)
        self.reporter.epoch_begins(state)

        committed = self._exchange(Kind.COMMITMENT, "train")
        self._exchange(Kind.ACKNOWLEDGEMENT, "acknowledge", committed)
        opened = self._exchange(Kind.MANIFEST, "publish")

        sealed = self._exchange(Kind.BALLOT_A_COMMITMENT, "commit_ballots_a", opened)
        scored = self._exchange(Kind.BALLOT_A, "reveal_ballots_a", sealed)
        sealed = self._exchange(Kind.BALLOT_B_COMMITMENT, "commit_ballots_b", scored)
        self._exchange(Kind.BALLOT_B, "reveal_ballots_b", sealed)

        record, bulletin = self._ask("tally")
        attestation, following = self._sign(record, bulletin)
        self.run_directory.write_epoch(record, attestation, bulletin, self._wall_seconds())
        self.nodes.epoch_signed()
        self.ledger.settle(state, record, attestation)

        following_task = task.at(following)
        if not following.finished:
            self.nodes.place(following_task)
        losses, _ = self._losses(self._results("advance", attestation, bulletin))
        self.reporter.epoch_ends(record, losses, self._wall_seconds())
        return following_task

    def _exchange(self, kind: Kind, phase: str, *args: Any) -> ObjectRef[Bulletin]:
        """One phase on all nodes: its messages go to the coordinator as they come.

        Returns:
            The bulletin after it, which goes from the coordinator to the nodes: a large one never comes here.
        """
        for _, result in self._results(phase, *args):
            for reason in self._ask("collect", result.messages, kind):
                self.events.emit("message_dropped", phase=phase, reason=reason)
        bulletin: ObjectRef[Bulletin] = self.coordinator.actor.bulletin.remote()
        self._ask("size")  # answered after it: a coordinator that died is noticed here, not by the nodes
        return bulletin

    def _sign(self, record: Record, bulletin: Bulletin) -> tuple[Attestation, TaskState]:
        """Have the voters derive the record themselves and sign its report; a quorum makes it final."""
        signatures: dict[int, bytes] = {}
        for _, result in self._results("sign", record.data, bulletin):
            signatures |= result.signatures
        attested: tuple[Attestation, TaskState] = self._ask("attest", record, signatures)
        return attested

    def _results(self, phase: str, *args: Any) -> Iterable[tuple[int, PhaseResult]]:
        """Results of a phase in the order of arrival, their events logged and their seconds counted."""
        slowest: dict[str, float] = {}
        for index, result in self.arrivals(self.nodes.run(phase, *args)):
            self._note(result)
            for kind, seconds in result.seconds.items():
                slowest[kind] = max(slowest.get(kind, 0.0), seconds)
            yield index, result
        for kind, seconds in slowest.items():
            self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    def _note(self, result: PhaseResult) -> None:
        self.reporter.opened(result.opened)
        for kind, fields in result.events:
            self.events.emit(kind, **fields)
            self.reporter.noted(kind, fields)

    def _wall_seconds(self) -> dict[str, float]:
        """The epoch's time so far by kind of work; what no node counted is overhead."""
        elapsed = time.perf_counter() - self._started
        return self._seconds | {"overhead": max(0.0, elapsed - sum(self._seconds.values()))}

    def _follow_chain(self, task: RunningTask, at_most_open: int) -> RunningTask:
        """Note what is settled. An abandoned epoch voids what was signed from it on: back to where the chain is."""
        try:
            for settlement in self.ledger.settled(at_most_open):
                self.run_directory.write_settlement(settlement)
                self.reporter.settled(settlement)
        except EpochAbandonedError as abandoned:
            first = abandoned.epoch
            state = self.ledger.follow(self._before[first])
            members = range(len(state.members))
            task = replace(task, state=state, silos={n: silo for n, silo in task.silos.items() if n in members})
            self.run_directory.write_abandoned(first, state.epoch)
            self.reporter.abandoned(first, state.epoch)
            self._with_coordinator(self._begin, task)
        return task

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return self.coordinator.call(method, *args)
        except RayActorError as error:
            lost: FlockRayError = ClusterError(f"the coordinator died in {method}")
            raise CoordinatorLostError(lost) from error
        except HangError as error:
            raise CoordinatorLostError(error) from error


def _asked(changes: Iterable[AskedChange], epoch: int) -> list[int]:
    """Silos whose owners ask for a change before an epoch."""
    return [silo for change in changes if change.epoch == epoch for silo in change.silos]
