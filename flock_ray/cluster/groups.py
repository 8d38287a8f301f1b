"""Node groups on Ray: STRICT_PACK placement groups with one actor a worker, and what is done when one of them fails.

A phase runs on all groups at once; results come in finish order. `supervisor.decide` says what to do about a failure,
and here it is done: a group is asked again, rebuilt whole or given up. Phases are pure functions of state and bulletin,
so answers stay the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from flock_ray.cluster.deadlines import AWAY, Deadlines, Liveness
from flock_ray.cluster.interrupts import check_interrupted
from flock_ray.cluster.node_group import NodeGroup
from flock_ray.cluster.phases import Phases
from flock_ray.cluster.placement import Plan, place_hosts
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.signing_worker import SigningWorker
from flock_ray.cluster.spec import HostSpec, PhaseResult
from flock_ray.cluster.supervisor import (
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
from flock_ray.cluster.vitals import Vitals
from flock_ray.cluster.waiting_group import LOADING_STEPS, PLACE, Step, WaitingGroup
from flock_ray.cluster.worker import Worker
from flock_ray.errors import HangError, WorkerMemoryError

_TICK = 1.0  # seconds between two questions about a worker's vitals; more where there are hundreds of workers
_LOOK = 0.1  # seconds between two looks at all that are waited for
_COLLATERAL_SECONDS = 5.0  # in which the ranks of a group fail with the first one
_LOADING = ("open_rendezvous", "load")  # a process starts, imports and reads: nothing tells a hang from slowness


class NodeGroups(Phases):
    """All node groups of a run.

    Attributes:
        progress: takes (phase, done, total).
        tell: takes a line for people.
        deadlines: what phases may take.
    """

    def __init__(
        self,
        specs: Sequence[HostSpec],
        plan: Plan,
        deadlines: Deadlines,
        placement_timeout: float,
        load_timeout: float,
        report: Callable[..., None],
        worker: type[SigningWorker] = Worker,
    ) -> None:
        """Describe the groups.

        Args:
            specs: one a group.
            plan: the placement plan.
            deadlines: what phases may take.
            placement_timeout: seconds to wait for placement.
            load_timeout: seconds that loading may take.
            report: takes (kind, **fields) of events.
            worker: class of a worker.
        """
        self._groups = [NodeGroup(spec, plan, f"node-{index}", worker) for index, spec in enumerate(specs)]
        self._plan, self._report = plan, report
        self._placement_timeout, self._load_timeout = placement_timeout, load_timeout
        self._alive = set(range(len(specs)))
        self._silos = {host: silos for spec in specs for host, silos in spec.hosts.items()}
        self._task: RunningTask | None = None
        self._begin: RunningTask | None = None
        self._failures: list[Failure] = []
        self._events: dict[int, Sequence[tuple[str, Mapping[str, object]]]] = {}
        self._shown: dict[int, Vitals] = {}
        self._told = ("", 0, 0)
        self.deadlines = deadlines
        self.progress: Callable[[str, int, int], None] = lambda phase, done, total: None
        self.tell: Callable[[str], None] = lambda line: None

    def start(self) -> list[Any]:
        """Place and load all groups at once; what each tells, in the order of the plan."""
        waits = {index: self._waiting(index) for index in range(len(self._groups))}
        return [info for _, info in sorted(self._gather(waits), key=lambda answer: answer[0])]

    def place(self, task: RunningTask) -> None:
        """Share out the logical hosts for an epoch by its roles, where the plan lets them move."""
        self._task = task
        waits = {}
        for index, hosts in self._shares().items():
            group = self._groups[index]
            group.spec = replace(group.spec, hosts=hosts)
            if group.carried != hosts:
                if group.carried is not None:
                    self._report("hosts_moved", group=index, hosts=sorted(hosts))
                waits[index] = self._waiting(index)
        for _ in self._gather(waits):
            pass

    def _shares(self) -> dict[int, dict[int, tuple[int, ...]]]:
        """{living group: its logical hosts with their silos}."""
        homes = [group.hosts for group in self._plan.nodes]
        proposing, voting = set[int](), set[int]()
        if self._task and self._plan.hosts_move:
            roles, silos = self._task.state.roles, self._task.silos
            proposing = {silos[member] for member in roles.proposers if member in silos}
            voting = {silos[member] for member in roles.voters if member in silos}
        load = {
            host: (len(proposing.intersection(silos)), len(voting.intersection(silos)))
            for host, silos in self._silos.items()
        }
        placed = place_hosts(homes, self._alive, load)
        return {index: {host: self._silos[host] for host in hosts} for index, hosts in placed.items()}

    @property
    def first(self) -> int:
        """Number of the first group that lives."""
        return min(self._alive)

    def resume_from(self, task: RunningTask) -> None:
        """What a group rebuilt from now on is told first: the task as the running epoch starts from it."""
        self._begin = task

    def expect(self, seconds: float) -> None:
        """An epoch is estimated to take so long."""
        self.deadlines.estimate = seconds

    def epoch_signed(self) -> None:
        """An epoch was signed: the failures before it no longer count."""
        self._failures.clear()

    def run(self, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        """One phase on all groups: (index, rank 0's result) in finish order; of a group asked anew more than once.

        Args:
            method: the phase.
            args: of the phase, or references to them.

        Raises:
            FlockRayError: what a worker raised, or a group failed more often than the policy allows.
        """
        shared = tuple(arg if isinstance(arg, ray.ObjectRef) else ray.put(arg) for arg in args)
        return self._gather({index: self._waiting(index, (method, shared)) for index in sorted(self._alive)})

    def _waiting(self, index: int, *asked: Step) -> WaitingGroup:
        """What is asked of a group, after what it lacks: loading, if a wait before this one was given up, or hosts."""
        group = self._groups[index]
        if group.carried is None:
            group.stop()
            group.reserve()
            return WaitingGroup(list(asked), [*LOADING_STEPS, *self._taken_up(asked)])
        if group.carried != group.spec.hosts:
            assign = ("assign", (group.spec.hosts,))
            return WaitingGroup(list(asked), [assign, *(self._taken_up(asked) if asked else ())])
        return WaitingGroup(list(asked), list(asked))

    # -- waiting ---------------------------------------------------------------------------------------------------

    def _gather(self, waits: dict[int, WaitingGroup]) -> Iterator[tuple[int, Any]]:
        looked = time.monotonic()
        while waits:
            now = time.monotonic()
            for index, waiting in waits.items():
                self._ask(index, waiting, now)
            refs = {ref: index for index, waiting in waits.items() for ref in waiting.refs}
            ready = _ready(list(refs), self._pause(waits, now))
            check_interrupted()
            now = time.monotonic()
            for ref in ready:
                self._take(waits[refs[ref]], ref, now)
            for index in sorted({refs[ref] for ref in ready}):
                if not waits[index].refs and not waits[index].errors:
                    yield from self._step_done(index, waits, now)
            away, now = time.monotonic() - looked, time.monotonic()
            if away < _LOOK:
                continue
            looked = now
            for index in list(waits):
                for liveness in waits[index].liveness.values() if away > AWAY else ():
                    liveness.not_looked_at(away)
                self._look_after(index, waits, now)
            self._show_progress(waits)

    def _pause(self, waits: Mapping[int, WaitingGroup], now: float) -> float:
        """Seconds until something is due without an answer."""
        placing = any(waiting.method == PLACE for waiting in waits.values())
        due = [waiting.ask_at - now for waiting in waits.values() if waiting.ask_at > now]
        return max(0.01, min([_LOOK if placing else _TICK, *due]))

    def _ask(self, index: int, waiting: WaitingGroup, now: float) -> None:
        """Ask a group for its running step, unless it was asked or is not to be asked yet."""
        if waiting.since or now < waiting.ask_at:
            return
        waiting.since = now
        method, args = waiting.steps[0]
        if method != PLACE:
            refs = self._groups[index].call(method, *args)
            waiting.refs = {ref: rank for rank, ref in enumerate(refs)}
            waiting.liveness = {rank: Liveness(now) for rank in range(self._plan.workers)}

    def _take(self, waiting: WaitingGroup, ref: Any, now: float) -> None:
        """The answer or the error of one rank."""
        rank = waiting.refs.pop(ref)
        try:
            answer = ray.get(ref)
        except RayError as error:
            if not waiting.errors:
                waiting.failed_at = now
            waiting.errors.append(error)
        else:
            if rank == 0:
                waiting.answer = answer

    def _step_done(self, index: int, waits: dict[int, WaitingGroup], now: float) -> Iterator[tuple[int, Any]]:
        """All ranks answered: on to the group's next step, or its answer."""
        waiting, group = waits[index], self._groups[index]
        method, args = waiting.steps.pop(0)
        answer = waiting.answer
        self.deadlines.note(method, now - waiting.since, getattr(answer, "units", 0))
        if method in ("load", "assign"):
            group.carried = args[0] if method == "assign" else group.spec.hosts
        if isinstance(answer, PhaseResult):
            events = (*self._events.pop(index, ()), *answer.events)
            answer = replace(answer, events=events)
            if waiting.steps or not waiting.asked:
                self._events[index] = events  # its next answer brings them
        if not waiting.steps:
            del waits[index]
            yield index, answer
            return
        following = list(waiting.steps)
        if method == "open_rendezvous":
            host, port = waiting.answer
            following[0] = ("load", (host, port, self._plan.workers))
        waiting.restart(following)

    def _look_after(self, index: int, waits: dict[int, WaitingGroup], now: float) -> None:
        """Notice what failed, what is late and what hangs, and act on it."""
        waiting, group = waits[index], self._groups[index]
        if not waiting.since:
            return
        if waiting.errors:
            if not waiting.refs or now - waiting.failed_at > _COLLATERAL_SECONDS:
                self._failed(index, waits, root_cause(waiting.errors), now)
            return
        waited = now - waiting.since
        if waiting.method == PLACE:
            if group.placed():
                waiting.steps.pop(0)
                waiting.restart(waiting.steps)
            elif waited > self._placement_timeout:
                self._failed(index, waits, group.lacking(self._placement_timeout), now)
            return
        self._check_health(group, waiting, now)
        if waiting.method in _LOADING:
            if waited > self._load_timeout:
                hang = HangError(f"loading took more than {self._load_timeout:g} s (cluster.load_timeout)")
                self._failed(index, waits, hang, now)
            return
        units = max((vitals.total for vitals in waiting.vitals.values()), default=0)
        budget = self.deadlines.budget(waiting.method, units)
        if waited > budget and not waiting.late:
            self._call_late(index, waiting, waited, budget)
        silent = [liveness.hang(now, budget) for liveness in waiting.liveness.values()]
        if unanswered := next((why for why in silent if why and why.startswith("no answer")), None):
            self._failed(index, waits, HangError(unanswered), now)
        elif all(silent):  # one rank may wait for another
            self._failed(index, waits, HangError(str(silent[0])), now)

    def _check_health(self, group: NodeGroup, waiting: WaitingGroup, now: float) -> None:
        """Take the vitals that were answered, and ask for them again once a second."""
        if waiting.health:
            for ref in ray.wait(list(waiting.health), num_returns=len(waiting.health), timeout=0)[0]:
                rank = waiting.health.pop(ref)
                try:
                    waiting.vitals[rank] = ray.get(ref)
                    waiting.liveness[rank].answered(now, waiting.vitals[rank])
                except RayError:
                    pass  # the phase fails with it
        often = _TICK * max(1.0, len(self._alive) * self._plan.workers / 100)
        if not waiting.health and now - waiting.health_asked >= often:
            waiting.health_asked = now
            waiting.health = {ref: rank for rank, ref in enumerate(group.ask_vitals())}

    def _call_late(self, index: int, waiting: WaitingGroup, waited: float, budget: float) -> None:
        waiting.late = True
        done, total = (
            max((getattr(v, name) for v in waiting.vitals.values()), default=0) for name in ("done", "total")
        )
        self._report("late", group=index, phase=waiting.method, seconds=round(waited, 1), done=done, total=total)
        self.tell(
            f"{self._groups[index].describe()} is late in phase {waiting.method}: {done} of {total} after"
            f" {waited:.0f} s, expected within {budget:.0f} s"
        )

    # -- failures --------------------------------------------------------------------------------------------------

    def _failed(self, index: int, waits: dict[int, WaitingGroup], error: Exception, now: float) -> None:
        """Have the policy decide, and do it.

        Raises:
            Exception: the policy says that the run fails.
        """
        group, waiting = self._groups[index], waits[index]
        cause, ranks = cause_of(error, self._plan.workers), self._plan.workers
        explained = self._explained(error, waiting, group) if cause is Cause.OUT_OF_MEMORY else error
        failure = Failure(index, waiting.method, cause, explained, group.where)
        can_move = self._plan.hosts_move and len(self._alive) > 1 and self._begin is not None
        action = decide(failure, self._failures, can_move, can_retry=ranks == 1)
        self._failures.append(failure)
        self._report(
            "node_group_failed",
            group=index,
            phase=waiting.method,
            cause=failure.cause.name.lower(),
            action=type(action).__name__.lower(),
            where=group.where,
            error=str(error).splitlines()[-1] if str(error) else type(error).__name__,
        )
        if isinstance(action, Fail):
            raise action.error
        self.tell(f"{group.describe()} failed in phase {waiting.method}: {failure.cause.value}; {_TOLD[type(action)]}")
        if isinstance(action, Retry):
            waiting.restart(waiting.steps, now + action.after)
        elif isinstance(action, Rebuild):
            group.stop()
            group.reserve()
            waiting.restart([*LOADING_STEPS, *self._taken_up(waiting.asked)])
        else:
            self._give_up(index, waits)

    @staticmethod
    def _explained(error: Exception, waiting: WaitingGroup, group: NodeGroup) -> Exception:
        """What a run says that ends because a worker's memory did not suffice."""
        peak = max((vitals.peak_bytes for vitals in waiting.vitals.values()), default=0)
        return WorkerMemoryError(
            f"a worker ran out of memory: it held up to {peak / 1e9:.1f} GB, and its machine has"
            f" {group.memory / 1e9:.1f} GB for workers; lower training.cohort_tokens or the members of a host"
        )

    def _taken_up(self, asked: Sequence[Step]) -> list[Step]:
        """What is asked, after the running epoch was taken up where that is not what is asked."""
        if self._begin is None or (asked and asked[-1][0] == "begin"):
            return list(asked)
        return [("begin", (ray.put(self._begin),)), *asked]

    def _give_up(self, index: int, waits: dict[int, WaitingGroup]) -> None:
        """Have the other groups take over the hosts of a group for which there is no machine."""
        self._groups[index].stop()
        self._alive.discard(index)
        asked = waits.pop(index).asked
        steps = self._taken_up(asked)
        for other, hosts in self._shares().items():
            group = self._groups[other]
            if group.spec.hosts != hosts:
                group.spec = replace(group.spec, hosts=hosts)
                waiting = waits.setdefault(other, WaitingGroup([], []))
                waiting.asked += asked
                waiting.steps += [("assign", (hosts,)), *steps]

    def _show_progress(self, waits: Mapping[int, WaitingGroup]) -> None:
        for index, waiting in waits.items():
            if vitals := waiting.vitals.get(0):
                self._shown[index] = vitals
        phases = [self._shown[index].phase for index in waits if index in self._shown]
        alike = [vitals for vitals in self._shown.values() if phases and vitals.phase == phases[0]]
        done, total = sum(vitals.done for vitals in alike), sum(vitals.total for vitals in alike)
        if total and (phases[0], done, total) != self._told:
            self._told = phases[0], done, total
            self.progress(*self._told)

    def stop(self) -> None:
        """Stop all groups."""
        for group in self._groups:
            group.stop()


def _ready(refs: Sequence[Any], timeout: float) -> list[Any]:
    """All references whose answers are there, once one is or the time is over."""
    if not refs:
        time.sleep(timeout)
        return []
    if not ray.wait(list(refs), timeout=timeout)[0]:
        return []
    ready: list[Any] = ray.wait(list(refs), num_returns=len(refs), timeout=0)[0]
    return ready


_TOLD = {Retry: "it is asked again", Rebuild: "it is rebuilt", Move: "its hosts go to the other groups"}
