"""One contest from configuration to summary: starts what the loop of days needs, and leaves nothing behind."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flock_ray.arena import Arena
from flock_ray.chain.values import TOKEN
from flock_ray.cluster.adapter_folder import write_leader_folder
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.cluster.contest_board import ContestBoard
from flock_ray.cluster.contest_launch import agreed_terms, contest_specs, contest_texts
from flock_ray.cluster.contest_ledger import ContestLedger, NoContestLedger
from flock_ray.cluster.contest_reporter import ContestReporter
from flock_ray.cluster.contest_rows import write_rows
from flock_ray.cluster.contest_spec import ContestInfo
from flock_ray.cluster.contest_worker import ContestWorker
from flock_ray.cluster.coordinator_actor import coordinator_actors
from flock_ray.cluster.epoch_loop import Arrivals
from flock_ray.cluster.groups import NodeGroups
from flock_ray.cluster.ledger import Ledger
from flock_ray.cluster.observer import Observers
from flock_ray.cluster.placement import Plan
from flock_ray.cluster.pruning import prune
from flock_ray.cluster.run_directory import RunDirectory, SignedEpoch
from flock_ray.cluster.run_summary import PACKAGES
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.runtime import frozen_garbage_collection, machines, ray_cluster, ray_failures
from flock_ray.cluster.spec import HostSpec
from flock_ray.cluster.strangers import Strangers
from flock_ray.config import ArenaConfig, Config, settled_as
from flock_ray.lora.serialization import MAX_ADAPTER_BYTES
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.state import TaskState
from flock_ray.session import Session, patiently
from flock_ray.store.blob_store import BlobStore
from flock_ray.store.files import write_json, write_text
from flock_ray.telemetry.contest_views import build_contest_summary, show_totals
from flock_ray.telemetry.events import EventLog
from flock_ray.telemetry.leaderboard import leaderboard
from flock_ray.telemetry.table import Console
from flock_ray.verify.contest_genesis import read_contest_genesis
from flock_ray.verify.folder import RunFolder


class ArenaSession(Session):
    """The parts of one contest, in the order in which they come to life."""

    def __init__(
        self,
        config: ArenaConfig,
        run: RunDirectory,
        plan: Plan,
        console: Console,
        events: EventLog,
        on_whole: Callable[[], None],
    ) -> None:
        """Join the parts; see `Session`."""
        super().__init__(settled_as(config), run, plan, console, events, ContestWorker, on_whole)
        self.arena = config

    def play(self, arrivals: Arrivals) -> dict[str, Any]:
        """Load, create or resume the contest, run its days, pay out, write the results; returns the summary."""
        started = time.perf_counter()
        with self._node_groups() as groups:
            reports: list[ContestInfo] = groups.start()
            self._first, self._rules = reports[0], reports[0].rules
            self._probe_store(groups)
            accounts = dict(sorted(owner for report in reports for owner in report.accounts.items()))
            ledger = self._ledger(accounts)
            reporter = ContestReporter(self.arena, self.console, self.events)
            state, earlier = self._contest(reports, ledger, groups, reporter)
            owners = {account: silo for silo, account in accounts.items()}
            silos = {number: owners[one.account] for number, one in enumerate(state.members) if one.account in owners}
            task = RunningTask(state, ledger.domain, ledger.relayer, silos)
            reporter.load_seconds = time.perf_counter() - started
            self.console.line(
                f"{self._first.model_name} ({self._first.model_dtype}), chain {ledger.facts()['backend']}, contest"
                f" {to_hex(state.scope.task)[:18]}…; loaded in {reporter.load_seconds:.0f} s"
            )
            rules = self._rules
            coordinators = coordinator_actors(
                groups.deadlines, self.config.cluster.load_timeout, reporter.line, rules.derive, rules.advance,
                rules.verifier,
            )  # fmt: skip
            strangers = self._strangers(state, ledger, accounts) if self.arena.contest.open else None
            observers = Observers([reporter, *([strangers] if strangers else [])])
            loop = Arena(
                groups, coordinators, ledger, self.run_directory, observers, self.arena.contest.max_unsettled,
                self._open_rows, arrivals, strangers,
            )  # fmt: skip
            with frozen_garbage_collection():
                final = loop.run(task, earlier)
            ledger.pay_out(final, groups)
            if ledger.pending:
                self.console.line(ledger.pending.describe(self.run_directory.path))
            return self._summarised(final, ledger, reporter)

    def _specs(self) -> Sequence[HostSpec]:
        return contest_specs(self.arena, self.plan, self.run_directory.path, self.store_url)

    def _no_chain(self, accounts: dict[int, str]) -> Ledger:
        return NoContestLedger(self.config, accounts, self._rules)

    def _chain(self, config: Config, accounts: dict[int, str]) -> ChainLedger:
        stake = self.arena.contest.node_stake * TOKEN
        return ContestLedger(config, self.run_directory.path, accounts, self._rules, stake)

    def _strangers(self, state: TaskState, ledger: Ledger, accounts: Mapping[int, str]) -> Strangers:
        """Others that enter while the contest runs, and how they do."""
        board, domain = ContestBoard(BlobStore(self.store_url), state.scope.task), ledger.domain
        board.post_task(domain.chain_id, domain.contract, state.terms)
        self.console.line(
            f"Open to others: flock-ray arena submit task={to_hex(state.scope.task)} store={self.store_url}"
            f" contracts={domain.contract} rpc=URL key=NAME adapter=DIR"
        )
        return Strangers(board, list(accounts.values()), self.console.line)

    def _open_rows(self, day: int) -> None:
        """Publish a day's rows in the run folder, and set B on the last day."""
        write_rows(self.run_directory.path, self._first.data, day, last=day == self.arena.contest.days)

    def _contest(
        self, reports: list[ContestInfo], ledger: Ledger, groups: NodeGroups, reporter: ContestReporter
    ) -> tuple[TaskState, list[SignedEpoch]]:
        """Create the contest, or read an earlier run back: the state to resume at, and signed days."""
        terms, run = agreed_terms(self.arena, ledger.creator, reports), self.run_directory
        if not run.started:
            state = ledger.create_task(terms, groups)
            stakes = {member.account: member.stake for member in state.members}
            run.write_task(state, ledger.relayer, ledger.facts(), stakes, contest_texts(self.arena))
            anchor = read_contest_genesis(RunFolder(run.path, self.store_url)).anchor
            self.events.emit(
                "task_created", task=state.scope.task, seed=state.seed, chain=ledger.facts(), anchor=anchor
            )
            self.console.line(f"Run folder: {run.path}")
            self.console.line(f"Anchor of the run, for jobs/verify.py: {to_hex(anchor)}")
            return state, []
        state = run.first_state(terms, self._rules)
        ledger.adopt(state)
        store = BlobStore(self.store_url)
        earlier, state = patiently(run.signed_epochs, state, ledger.domain, ledger.relayer, store, self._rules)
        reporter.recall(earlier)
        self.events.emit("resumed", epoch=state.epoch, task=state.scope.task)
        self.console.line(f"Resumed at day {min(state.epoch, terms.num_epochs)} of {terms.num_epochs}")
        return state, earlier

    def _summarised(self, state: TaskState, ledger: Ledger, reporter: ContestReporter) -> dict[str, Any]:
        """Write adapter/ and summary.json, which is written last and means that the run is whole."""
        run, base, plan = self.run_directory, self._first, self.plan
        totals = reporter.totals(state, ledger.balances(state))
        show_totals(self.console, totals)
        summary = build_contest_summary(
            run_id=run.run_id,
            task_id=to_hex(state.scope.task),
            model=base.model_name,
            days=reporter.views,
            members=totals,
            final_adapter_hash=to_hex(state.adapter),
            chain=ledger.facts(),
            facts={
                "seed": self.arena.seed,
                "metric": self.arena.contest.metric,
                "scorer": self.arena.contest.scorer,
                "model_hash": base.hashes.weights,
                "model_dtype": base.model_dtype,
                "num_parameters": base.num_parameters,
                "placement": plan.describe(),
                "load_seconds": round(reporter.load_seconds, 3),
                "abandoned_epochs": run.abandoned_epochs,
                "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            },
        )
        adapter = patiently(BlobStore(self.store_url).get, state.adapter, MAX_ADAPTER_BYTES)
        write_leader_folder(run.adapter, adapter, self.arena, base, self.console.line)
        self._write_leaderboard(reporter.records, summary)
        write_json(run.summary, summary)
        self.on_whole()
        return summary

    def _write_leaderboard(self, records: Sequence[ContestRecord], summary: Mapping[str, Any]) -> None:
        """Write leaderboard.html and leaderboard.json; none without a day."""
        if not records:
            return
        facts = {"base model": summary["model"], "chain": summary["chain"]["backend"], "run": summary["run_id"]}
        page, board = leaderboard(records, {}, facts, f"flock-ray verify {self.run_directory.path}")
        write_text(self.run_directory.path / "leaderboard.html", page)
        write_json(self.run_directory.path / "leaderboard.json", board)
        self.console.line(f"Leaderboard: {self.run_directory.path / 'leaderboard.html'}")


def run_arena(
    config: ArenaConfig,
    run: RunDirectory,
    plan: Plan,
    console: Console,
    arrivals: Arrivals = lambda results: results,
) -> dict[str, Any]:
    """Run a contest to its end and return its summary.

    Args:
        config: checked.
        run: new, or of a run to resume.
        plan: where members run.
        console: where progress is told.
        arrivals: order in which results reach the coordinator; tests shuffle it.

    Raises:
        FlockRayError: whatever a user can repair, one class a cause.
    """
    with ray_cluster(config.cluster) as watchdog, ray_failures(), EventLog(run.events) as events:
        plan.check_fit(machines())
        days = config.contest.days
        watchdog.describe = lambda: (
            f"{run.num_signed} of {days} days of {run.path} are signed" if run.started else "no contest was created"
        )
        summary = ArenaSession(config, run, plan, console, events, watchdog.stand_down).play(arrivals)
    prune(run, config.store, console.line)
    return summary
