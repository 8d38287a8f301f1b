"""A contest in one process without Ray: the real loop of days over plain workers and a plain coordinator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flock_ray.arena import Arena
from flock_ray.chain.eip712 import message_digest
from flock_ray.chain.keys import run_signer
from flock_ray.cluster.contest_launch import agreed_terms, contest_plan, contest_specs
from flock_ray.cluster.contest_ledger import NoContestLedger
from flock_ray.cluster.contest_spec import ContestInfo
from flock_ray.cluster.contest_worker import ContestWorker
from flock_ray.cluster.coordinator import Coordinator
from flock_ray.cluster.in_process import InProcessNodes, MemoryJournal
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.spec import PhaseResult
from flock_ray.config import ArenaConfig, settled_as
from flock_ray.protocol.contest_message import ContestKind, ContestMessage
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.message import SignedMessage
from flock_ray.store.blob_store import BlobStore

Meddle = Callable[[str, int, PhaseResult], PhaseResult]


class PlainNodes(InProcessNodes):
    """Workers of this process, asked one after the other.

    Attributes:
        meddle: (phase, node, its answer) -> what arrives.
        asked: every call, (method, arguments).
    """

    def __init__(self, workers: list[ContestWorker]) -> None:
        super().__init__(workers)
        self.meddle: Meddle = lambda phase, node, result: result
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def run(self, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        self.asked.append((method, args))
        for node, answer in super().run(method, *args):
            yield node, self.meddle(method, node, answer) if isinstance(answer, PhaseResult) else answer


class Told(Observer):
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Mapping[str, object]]] = []

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        self.events.append((kind, fields))


class PlainContest:
    """One contest, a day at a time.

    Attributes:
        state: of the next day.
        store: with payloads and messages.
        records: of the days so far.
    """

    def __init__(self, folder: Path, config: ArenaConfig) -> None:
        self.config, self.folder = config, folder
        self.specs = contest_specs(config, contest_plan(config), folder, str(folder / "store"))
        self.workers = [ContestWorker(spec, 0) for spec in self.specs]
        self.reports: list[ContestInfo] = [worker.load("localhost", 0, 1) for worker in self.workers]
        self.rules, self.nodes, self.told = self.reports[0].rules, PlainNodes(self.workers), Told()
        accounts = dict(sorted(one for report in self.reports for one in report.accounts.items()))
        self.ledger = NoContestLedger(settled_as(config), accounts, self.rules)
        first = self.ledger.create_task(agreed_terms(config, self.ledger.creator, self.reports), self.nodes)
        assert isinstance(first, ContestState)
        self.state, self.store, self.journal = first, BlobStore(str(folder / "store")), MemoryJournal()
        self.opened: list[int] = []
        self.loop = Arena(
            self.nodes, lambda: Coordinator(self.rules.derive, self.rules.advance, self.rules.verifier), self.ledger,
            self.journal, self.told, 1, self.opened.append,
        )  # fmt: skip
        self.loop.begin(self.task)

    @property
    def task(self) -> RunningTask:
        return RunningTask(
            self.state, self.ledger.domain, self.ledger.relayer, {one: one for one in range(len(self.state.members))}
        )

    def day(self) -> ContestRecord:
        """One whole day of the loop."""
        state = self.loop.epoch(self.task).state
        assert isinstance(state, ContestState)
        self.state = state
        return self.journal.epochs[-1][0]

    def signed(self, kind: ContestKind, member: int, body: Mapping[str, Any]) -> SignedMessage:
        """A message of the day with a member's own key, past its host."""
        state = self.state
        message = ContestMessage(kind, state.scope.task, state.epoch, member, body)
        digest = message_digest(self.ledger.domain, message.task, message.epoch, state.seed, kind, message.digest)
        return SignedMessage(message.data, run_signer(self.config.seed, f"member-{member}").sign_digest(digest))
