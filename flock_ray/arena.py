"""AI Arena: the loop of a contest's days, as the protocol has it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from itertools import chain

from flock_ray.cluster.attestation import Bulletin
from flock_ray.cluster.epoch_loop import AnyCoordinator, Arrivals, EpochLoop, Journal
from flock_ray.cluster.ledger import Ledger
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.phases import AnyBulletin, Phases, Results
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.strangers import Strangers
from flock_ray.protocol.contest_message import ContestKind
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_state import ContestState


class Arena(EpochLoop):
    """Runs the days of one contest; each is settled as an epoch. Holds signed messages, never tensors or rows."""

    def __init__(
        self,
        nodes: Phases,
        new_coordinator: Callable[[], AnyCoordinator],
        ledger: Ledger,
        journal: Journal,
        observer: Observer,
        max_unsettled: int,
        open_rows: Callable[[int], None],
        arrivals: Arrivals = lambda results: results,
        strangers: Strangers | None = None,
    ) -> None:
        """Join the parts; see `EpochLoop`. `open_rows` publishes a day's rows, `strangers` are nodes of others."""
        super().__init__(nodes, new_coordinator, ledger, journal, observer, max_unsettled, arrivals)
        self._open_rows, self._strangers = open_rows, strangers

    def begin(self, task: RunningTask) -> None:
        """Every node takes up the contest."""
        self.coordinator.begin(task)
        for _, result in self.nodes.begin(task):
            self._note(result)

    def propose(self, task: RunningTask) -> tuple[ContestRecord, Bulletin]:
        """All messages of a day, and the record that the coordinator derives from them."""
        self._epoch_begins(task)
        ask, exchange, kind = self.nodes.run, self.exchange, ContestKind
        state = task.state
        assert isinstance(state, ContestState)

        committed = exchange("submit", kind.COMMITMENT, self._and_strangers(ask("submit"), kind.COMMITMENT))
        exchange("acknowledge", kind.ACKNOWLEDGEMENT, ask("acknowledge", committed))
        opened = exchange("publish", kind.MANIFEST, self._and_strangers(ask("publish"), kind.MANIFEST))
        self._open_rows(state.epoch)  # nobody can learn them any more
        known = exchange("gate", kind.GATE, ask("gate", opened))

        for rung in state.rungs:
            sealed = exchange("commit_ballots", kind(f"{rung}_commitment"), ask("commit_ballots", known, rung))
            scored = exchange("reveal_ballots", kind(f"{rung}_ballot"), ask("reveal_ballots", sealed, rung))
            known = exchange("audit", kind(f"{rung}_rescore"), ask("audit", scored, rung))

        return self.coordinator.tally()

    def exchange(self, phase: str, kind: StrEnum, results: Results) -> AnyBulletin:
        """One phase, after which strangers are told what became of their submissions."""
        known = super().exchange(phase, kind, results)
        if self._strangers:
            self._strangers.phase_over(ContestKind(kind), self.coordinator)
        return known

    def _and_strangers(self, results: Results, kind: ContestKind) -> Results:
        """Messages of this run's nodes, and of others when the window is over."""
        return chain(results, self._strangers.results(kind)) if self._strangers else results

    def follow_members(self, task: RunningTask) -> RunningTask:
        """Let those in that entered meanwhile, and those go whom slashes made to leave, when it is their time."""
        changes, joined = self.ledger.changes(task.state)
        if not (changes or joined):
            return task
        task = task.changed(changes, joined, {})
        self.observer.members_changed(task, changes)
        self._with_coordinator(self.begin, task)
        return task
