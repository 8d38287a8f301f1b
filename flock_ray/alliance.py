"""FL Alliance: the epoch loop, as the protocol has it. Everything else stands behind nodes, coordinator and ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flock_ray.cluster.attestation import Bulletin
from flock_ray.cluster.epoch_loop import AnyCoordinator, Arrivals, EpochLoop, Journal
from flock_ray.cluster.ledger import Ledger
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.phases import Phases
from flock_ray.cluster.running_task import RunningTask
from flock_ray.config import AllianceConfig, AskedChange
from flock_ray.protocol.message import Kind
from flock_ray.protocol.record import Record


class Alliance(EpochLoop):
    """Runs the epochs of one task. Holds references and signed messages, never tensors or data."""

    def __init__(
        self,
        nodes: Phases,
        new_coordinator: Callable[[], AnyCoordinator],
        ledger: Ledger,
        journal: Journal,
        observer: Observer,
        settings: AllianceConfig,
        owners: Mapping[str, int],
        arrivals: Arrivals = lambda results: results,
    ) -> None:
        """Join the parts.

        Args:
            nodes: loaded.
            new_coordinator: starts one, and another when it is lost.
            ledger: where epochs are settled.
            journal: where signed epochs are kept.
            observer: sees what happens.
            settings: how many epochs may be open while the next one trains, and who comes and goes when.
            owners: {account: its silo} of everybody whose key and data are in this run.
            arrivals: order in which results reach the coordinator; tests shuffle it.
        """
        super().__init__(nodes, new_coordinator, ledger, journal, observer, settings.max_unsettled, arrivals)
        self.settings, self.owners = settings, owners
        self._asked_until = 0  # epoch up to which members were asked to come and go

    def begin(self, task: RunningTask) -> None:
        """Every node takes up the task and measures the global adapter on its members' held-out parts."""
        self.coordinator.begin(task)
        if not task.state.finished:
            self.nodes.place(task)
        losses, slowest = dict[int, float](), 0.0
        for _, result in self.nodes.begin(task):
            self._note(result)
            losses |= result.losses
            slowest = max(slowest, result.seconds.get("evaluate", 0.0))
        self.observer.evaluated(task.state.epoch - 1, losses, slowest)

    def propose(self, task: RunningTask) -> tuple[Record, Bulletin]:
        """All messages of an epoch, and the record that the coordinator derives from them."""
        self._epoch_begins(task)
        nodes, exchange = self.nodes, self.exchange

        committed = exchange("train", Kind.COMMITMENT, nodes.train())
        exchange("acknowledge", Kind.ACKNOWLEDGEMENT, nodes.acknowledge(committed))
        opened = exchange("publish", Kind.MANIFEST, nodes.publish())

        sealed = exchange("commit_ballots_a", Kind.BALLOT_A_COMMITMENT, nodes.commit_ballots_a(opened))
        scored = exchange("reveal_ballots_a", Kind.BALLOT_A, nodes.reveal_ballots_a(sealed))
        sealed = exchange("commit_ballots_b", Kind.BALLOT_B_COMMITMENT, nodes.commit_ballots_b(scored))
        exchange("reveal_ballots_b", Kind.BALLOT_B, nodes.reveal_ballots_b(sealed))

        return self.coordinator.tally()

    # -- between two epochs ------------------------------------------------------------------------------------------

    def before_start(self, task: RunningTask) -> RunningTask:
        """Let in whoever joined: they may have signed in an earlier process."""
        return self._let_in(task)[0]

    def follow_members(self, task: RunningTask) -> RunningTask:
        """Have members ask to come or go whose time it is; let those in and out whose changes are due."""
        epoch = task.state.epoch
        joins, leaves = self._to_ask(self.settings.joins, epoch), self._to_ask(self.settings.leaves, epoch)
        if (joins or leaves) and not task.state.finished:
            task = self._follow_chain(task, at_most_open=0)  # when it counts must not depend on the chain's pace
            if task.state.epoch == epoch:
                self.ledger.ask_changes(joins, leaves, self.nodes)
                self._asked_until = epoch
        task, changed = self._let_in(task)
        if changed and not task.state.finished:
            self._with_coordinator(self.begin, task)
        return task

    def _to_ask(self, changes: Iterable[AskedChange], epoch: int) -> list[int]:
        """Silos whose owners ask for a change before this epoch, or should have before an abandoned one."""
        return [silo for change in changes if self._asked_until < change.epoch <= epoch for silo in change.silos]

    def _let_in(self, task: RunningTask) -> tuple[RunningTask, bool]:
        """The task with the changes of its members that are due, and whether there are any."""
        changes, joined = self.ledger.changes(task.state)
        if not changes:
            return task, False
        numbered = enumerate(joined, start=len(task.state.members))
        silos = {number: self.owners[member.account] for number, member in numbered if member.account in self.owners}
        task = task.changed(changes, joined, silos)
        self.observer.members_changed(task, changes)
        return task, True
