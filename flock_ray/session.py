"""One run from configuration to report: starts what the epoch loop needs, and leaves nothing behind."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from flock_ray.alliance import Alliance
from flock_ray.cluster.adapter_folder import write_adapter_folder
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.cluster.coordinator_actor import coordinator_actors
from flock_ray.cluster.deadlines import Deadlines
from flock_ray.cluster.epoch_loop import Arrivals
from flock_ray.cluster.groups import NodeGroups
from flock_ray.cluster.launch import configuration_texts, group_specs, task_terms, uses_rpc
from flock_ray.cluster.ledger import Ledger, NoLedger
from flock_ray.cluster.observer import Observers
from flock_ray.cluster.placement import Plan
from flock_ray.cluster.pruning import prune
from flock_ray.cluster.run_directory import RunDirectory, SignedEpoch
from flock_ray.cluster.run_reporter import RunReporter
from flock_ray.cluster.run_summary import summarize
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.runtime import (
    TEARDOWN_SECONDS,
    frozen_garbage_collection,
    machines,
    ray_cluster,
    ray_failures,
    within,
)
from flock_ray.cluster.signing_worker import SigningWorker
from flock_ray.cluster.spec import GroupInfo, HostSpec
from flock_ray.cluster.start_adapter import keep_start_adapter, require_same_base
from flock_ray.cluster.tracking import Tracking
from flock_ray.cluster.worker import Worker
from flock_ray.config import ChainBackend, Config
from flock_ray.errors import FlockRayError
from flock_ray.lora.serialization import MAX_ADAPTER_BYTES
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.state import TaskState
from flock_ray.store.blob_store import BlobStore, StoreUnavailableError
from flock_ray.store.files import write_json
from flock_ray.store.retry import retried
from flock_ray.telemetry.events import EventLog
from flock_ray.telemetry.report import write_report
from flock_ray.telemetry.table import Console
from flock_ray.telemetry.tracking.tracker import TrackedRun
from flock_ray.telemetry.views import Answer
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.genesis import read_genesis

T = TypeVar("T")


class Session:
    """The parts of one run, in the order in which they come to life."""

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        plan: Plan,
        console: Console,
        events: EventLog,
        worker: type[SigningWorker],
        on_whole: Callable[[], None],
    ) -> None:
        """Join the parts; `on_whole` is called once the summary is written: what fails after that no longer matters."""
        self.on_whole = on_whole
        self.config, self.run_directory, self.plan = config, run, plan
        self.console, self.events, self.worker = console, events, worker
        self.store_url = config.store.url or str(run.store)

    def play(self, arrivals: Arrivals) -> dict[str, Any]:
        """Load, create or resume the task, run its epochs, pay out, write the results; returns the summary."""
        config, started = self.config, time.perf_counter()
        with self._node_groups() as groups:
            reports = groups.start()
            if not self.run_directory.started:
                require_same_base(config, reports[0].hashes)
            for note in dict.fromkeys(note for report in reports for note in report.notes):
                self.console.line(note)
            self._probe_store(groups)
            accounts = dict(sorted(owner for report in reports for owner in report.accounts.items()))
            ledger = self._ledger(accounts)
            owners = {account: silo for silo, account in accounts.items()}
            reporter = RunReporter(self.config, owners, self.console, self.events)
            reporter.opened(facts for report in reports for facts in report.opened)
            state, earlier, balances = self._task(reports, ledger, groups, reporter)
            silos = {n: owners[member.account] for n, member in enumerate(state.members) if member.account in owners}
            task = RunningTask(state, ledger.domain, ledger.relayer, silos)
            reporter.load_seconds = time.perf_counter() - started
            self.console.line(
                f"{reports[0].model_name} ({reports[0].model_dtype}), chain {ledger.facts()['backend']}, task"
                f" {to_hex(state.scope.task)[:18]}…; loaded in {reporter.load_seconds:.0f} s"
            )
            reporter.estimated = groups.expect
            tracking = self._tracking(reporter)
            coordinators = coordinator_actors(groups.deadlines, config.cluster.load_timeout, reporter.line)
            observers = Observers([reporter, tracking])
            alliance = Alliance(
                groups, coordinators, ledger, self.run_directory, observers, config.alliance, owners, arrivals
            )
            with frozen_garbage_collection(), closing(tracking):
                final = alliance.run(task, earlier)
            ledger.pay_out(final, groups)
            if ledger.pending:
                self.console.line(ledger.pending.describe(self.run_directory.path))
            answers = self._answers(groups, final)
            return self._results(final, ledger, reporter, reports[0], balances, answers)

    def _tracking(self, reporter: RunReporter) -> Tracking:
        """The trackers of the run; they are told figures, and what its members agreed on."""
        config, run = self.config, self.run_directory
        tracked = TrackedRun(run.path, run.run_id, config.tracking.project, configuration_texts(config))
        return Tracking(
            config.tracking.trackers, tracked, reporter.member_name, config.training.steps, self.console.line
        )

    def _answers(self, groups: NodeGroups, final: TaskState) -> list[Answer]:
        """The report's prompts, answered before and after; a run that is settled does not fail for want of them."""
        report = self.config.report
        if not report.prompts:
            return []
        adapters = list(dict.fromkeys((final.terms.start_adapter, final.adapter)))  # one, if nothing was accepted
        try:
            found = groups.answer(adapters, report.prompts, report.answer_tokens)
        except FlockRayError as error:
            found = str(error)
        if isinstance(found, str):
            self.console.line(f"No answers to report.prompts: {found}")
            return []
        return [Answer(*each) for each in zip(report.prompts, found[0], found[-1], strict=True)]

    def _specs(self) -> Sequence[HostSpec]:
        """What each node group hosts."""
        start = patiently(keep_start_adapter, self.config, self.run_directory, BlobStore(self.store_url))
        return group_specs(self.config, self.plan, self.run_directory.path, self.store_url, start)

    @contextmanager
    def _node_groups(self) -> Iterator[NodeGroups]:
        specs, cluster = self._specs(), self.config.cluster
        groups = NodeGroups(
            specs,
            self.plan,
            Deadlines(cluster.phase_floor),
            cluster.placement_timeout,
            cluster.load_timeout,
            self.events.emit,
            self.worker,
        )
        groups.progress, groups.tell = self.console.progress, self.console.line
        try:
            yield groups
        finally:
            within(TEARDOWN_SECONDS, groups.stop)

    def _probe_store(self, groups: NodeGroups) -> None:
        """Write here, read there, both ways: refuse a store that is another folder on another machine."""
        store, token = BlobStore(self.store_url), secrets.token_hex(8)
        patiently(store.probe_write, token)
        groups.probe(token)
        for index in range(len(self.plan.nodes)):
            patiently(store.probe_read, f"{token}{index:04x}")
            patiently(store.probe_remove, f"{token}{index:04x}")
        patiently(store.probe_remove, token)

    def _ledger(self, accounts: dict[int, str]) -> Ledger:
        if self.config.chain.backend is ChainBackend.none:
            return self._no_chain(accounts)
        config = self.config
        if self.run_directory.started:
            addresses = self.run_directory.read_task()[1]
            config = replace(
                config,
                chain=replace(
                    config.chain, token=addresses.token, task=addresses.task, settlement=addresses.settlement
                ),
            )
        ledger = self._chain(config, accounts)
        ledger.outage.progress, ledger.tell = self.console.progress, self.console.line
        ledger.deploy()
        if uses_rpc(config):
            contracts = ledger.facts()["contracts"]
            named = (f"chain.{name}={contracts[name]}" for name in ("token", "task", "settlement"))
            self.console.line(f"Contracts: {' '.join(named)}")
        return ledger

    def _no_chain(self, accounts: dict[int, str]) -> Ledger:
        return NoLedger(self.config, accounts)

    def _chain(self, config: Config, accounts: dict[int, str]) -> ChainLedger:
        return ChainLedger(config, self.run_directory.path, accounts)

    def _task(
        self, reports: list[GroupInfo], ledger: Ledger, groups: NodeGroups, reporter: RunReporter
    ) -> tuple[TaskState, list[SignedEpoch], dict[str, int]]:
        """Create the task, or read an earlier run back: the state to resume at, signed epochs, balances before."""
        terms = task_terms(self.config, ledger.creator, reports)
        run = self.run_directory
        if not run.started:
            balances = ledger.balances(None)
            state = ledger.create_task(terms, groups)
            reporter.members_are(state)
            run.write_task(state, ledger.relayer, ledger.facts(), balances, configuration_texts(self.config))
            anchor = read_genesis(RunFolder(run.path, self.store_url)).anchor
            if self.config.start_from:
                self.console.line(f"Starts from the adapter {to_hex(state.adapter)} of {self.config.start_from}")
            self.events.emit(
                "task_created", task=state.scope.task, seed=state.seed, chain=ledger.facts(), anchor=anchor
            )
            self.console.line(f"Run folder: {run.path}")
            self.console.line(f"Anchor of the run, for jobs/verify.py: {to_hex(anchor)}")
            return state, [], balances
        _, _, balances = run.read_task()
        state = run.first_state(terms)
        ledger.adopt(state)
        store = BlobStore(self.store_url)
        earlier, state = patiently(run.signed_epochs, state, ledger.domain, ledger.relayer, store)
        notes = [*run.logged("factor_averaging_error"), *run.logged("local_training"), *run.logged("sat_out"),
                 *run.logged("trained")]  # fmt: skip
        reporter.members_are(state)
        reporter.recall(earlier, run.logged("evaluation"), notes)
        self.events.emit("resumed", epoch=state.epoch, task=state.scope.task)
        self.console.line(f"Resumed at epoch {state.epoch} of {self.config.alliance.num_epochs}")
        return state, earlier, balances

    def _results(
        self, state: TaskState, ledger: Ledger, reporter: RunReporter, base: GroupInfo, balances: dict[str, int],
        answers: list[Answer],
    ) -> dict[str, Any]:  # fmt: skip
        """Write adapter/, report.html and summary.json; the summary is written last and means that the run is whole."""
        run, config = self.run_directory, self.config
        adapter = patiently(BlobStore(self.store_url).get, state.adapter, MAX_ADAPTER_BYTES)
        totals = reporter.totals(state, balances, ledger.balances(state))
        self.console.members(totals)
        summary = summarize(
            config, run.run_id, state, base, ledger, reporter, totals, self.plan.describe(), run.abandoned_epochs,
            answers,
        )  # fmt: skip
        anchor = read_genesis(RunFolder(run.path, self.store_url)).anchor
        write_adapter_folder(run.adapter, adapter, config, base, summary, totals, anchor, self.console.line)
        write_report(run.report, summary, reporter.views, totals, answers)
        write_json(run.summary, summary)
        self.on_whole()
        return summary


def patiently(access: Callable[..., T], *args: Any) -> T:
    """An access of the driver's own to the store, made again while the store does not answer."""
    return retried(partial(access, *args), StoreUnavailableError)


def run_alliance(
    config: Config,
    run: RunDirectory,
    plan: Plan,
    console: Console,
    arrivals: Arrivals = lambda results: results,
    worker: type[Worker] = Worker,
) -> dict[str, Any]:
    """Run a task to its end and return its summary.

    Args:
        config: checked.
        run: new, or of a run to resume.
        plan: where members run.
        console: where progress is told.
        arrivals: order in which results reach the coordinator; tests shuffle it.
        worker: class of the workers; benchmarks and chaos tests simulate training.

    Raises:
        FlockRayError: whatever a user can repair, one class a cause.
    """
    with ray_cluster(config.cluster) as watchdog, ray_failures(), EventLog(run.events) as events:
        plan.check_fit(machines())
        num_epochs = config.alliance.num_epochs
        watchdog.describe = lambda: (
            f"{run.num_signed} of {num_epochs} epochs of {run.path} are signed"
            if run.started
            else "no task was created"
        )
        summary = Session(config, run, plan, console, events, worker, watchdog.stand_down).play(arrivals)
    prune(run, config.store, console.line)
    return summary
