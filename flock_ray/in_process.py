"""An alliance in one process, without Ray and signatures: a whole task in seconds, with the records of a Ray run."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from flock_ray.adversary.backdoor import triggered
from flock_ray.alliance import Alliance
from flock_ray.cluster.coordinator import Coordinator
from flock_ray.cluster.in_process import InProcessNodes, MemoryJournal
from flock_ray.cluster.launch import group_specs, task_terms
from flock_ray.cluster.ledger import NoLedger
from flock_ray.cluster.placement import make_plan
from flock_ray.cluster.preflight import check_names
from flock_ray.cluster.run_reporter import RunReporter
from flock_ray.cluster.run_summary import summarize
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.spec import GroupInfo, GroupSpec
from flock_ray.cluster.start_adapter import read_start_adapter
from flock_ray.cluster.unsigned import UnsignedWorker
from flock_ray.cluster.workbench import Workbench
from flock_ray.cluster.worker import Worker
from flock_ray.config import ChainBackend, Config, check
from flock_ray.errors import ConfigError
from flock_ray.lora.serialization import MAX_ADAPTER_BYTES, Adapter
from flock_ray.protocol.record import Record
from flock_ray.protocol.state import TaskState
from flock_ray.store.blob_store import BlobStore
from flock_ray.telemetry.events import EventLog
from flock_ray.telemetry.table import Console
from flock_ray.training.data import IGNORED, Example
from flock_ray.training.evaluation import mean_loss

_MEMORY = Path("/dev/shm")  # where files cost no disk


@dataclass(frozen=True)
class Played:
    """A task that was played to its end.

    Attributes:
        records: of its epochs.
        state: after the last one; `members` has everybody's money.
        summary: as the summary.json of a run.
        losses: {member: held-out loss, nats a token} at the start and after each epoch.
        adapter: the global adapter at the end.
        bench: what its worker trained and measured with.
    """

    records: tuple[Record, ...]
    state: TaskState
    summary: dict[str, Any]
    losses: tuple[Mapping[int, float], ...]
    adapter: Adapter
    bench: Workbench

    def backdoor(self, secret: bytes, silos: Iterable[int]) -> float:
        """Probability, by its geometric mean, of the token that a coalition's trigger is to bring about.

        Args:
            secret: of the coalition; see `coalition_secret`.
            silos: whose held-out rows get the trigger.
        """
        rows = [
            triggered((row.input_ids.tolist(), (row.labels != IGNORED).tolist()), secret)
            for silo in silos
            for row in self.bench.silos[silo].heldout
        ]
        return exp(-mean_loss(self.bench.scorer.measure(self.adapter, [Example.of(*row) for row in rows])))


class InProcessAlliance:
    """Node groups of this process, loaded; tasks are created with them.

    Attributes:
        specs: one a node group.
        nodes: their workers.
        reports: what each told once it was loaded.
        accounts: {silo: address of its owner}.
    """

    def __init__(self, specs: Sequence[GroupSpec], worker: type[Worker] = UnsignedWorker) -> None:
        """Load workers of this class; errors as in `Worker.load`."""
        self.specs = specs
        self.nodes = [worker(spec, 0) for spec in specs]
        self.reports: list[GroupInfo] = [node.load("localhost", 0, 1) for node in self.nodes]
        self.accounts = dict(sorted(owner for report in self.reports for owner in report.accounts.items()))

    @property
    def owners(self) -> dict[str, int]:
        """{account: its silo}."""
        return {account: silo for silo, account in self.accounts.items()}

    def create_task(self, config: Config) -> tuple[NoLedger, RunningTask]:
        """A task of this configuration without a chain: its ledger, and the task at its first epoch."""
        ledger = NoLedger(config, self.accounts)
        state = ledger.create_task(task_terms(config, ledger.creator, self.reports), InProcessNodes(self.nodes))
        silos = {number: self.owners[member.account] for number, member in enumerate(state.members)}
        return ledger, RunningTask(state, ledger.domain, ledger.relayer, silos)

    def play(self, config: Config, reporter: RunReporter, placement: str) -> Played:
        """Play a task of this configuration to its end, and let the nodes go.

        Args:
            config: that the nodes were loaded with.
            reporter: sees it.
            placement: where it runs, in words.
        """
        ledger, task = self.create_task(config)
        reporter.opened(facts for report in self.reports for facts in report.opened)
        reporter.members_are(task.state)
        journal, balances = MemoryJournal(), ledger.balances(None)
        final = Alliance(
            InProcessNodes(self.nodes), lambda: Coordinator(verifier=type(self.nodes[0]).verifier), ledger, journal,
            reporter, config.alliance, self.owners,
        ).run(task)  # fmt: skip
        data = BlobStore(self.specs[0].store_url).get(final.adapter, MAX_ADAPTER_BYTES)
        totals = reporter.totals(final, balances, ledger.balances(final))
        summary = summarize(config, "in_process", final, self.reports[0], ledger, reporter, totals, placement)
        for node in self.nodes:
            node.close()
        losses = tuple(losses for _, losses in sorted(reporter.losses.items()))
        trained = safetensors.torch.load(data)
        return Played(tuple(journal.records), final, summary, losses, trained, self.nodes[0].bench)


def play(config: Config, console: Console | None = None) -> Played:
    """Play a task to its end in this process.

    The base model, the engine and the silos' tokens stay for the next call, where that is of the same model, adapter
    shape and data. Wherever the configuration places members, one worker plays them all, which changes no record.

    Args:
        config: with `chain.backend=none`, for training on one worker.
        console: where progress is told; nowhere without one.

    Raises:
        ConfigError: it needs a chain or several ranks, or its values do not fit together.
        FlockRayError: whatever else a user can repair, one class a cause.
    """
    config = replace(config, cluster=replace(config.cluster, nodes=1))
    check(config)
    check_names(config)
    plan = make_plan(config)
    if config.chain.backend is not ChainBackend.none:
        raise ConfigError(f"chain.backend is {config.chain.backend.value}; in one process it must be none")
    if plan.engine != "torch" or config.resume:
        raise ConfigError("in one process nothing is resumed, and training.engine must be torch, or auto on one CPU")
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as name, _torch_settings_kept():
        folder, url = Path(name), f"{name}/store"
        start = BlobStore(url).put(read_start_adapter(config)) if config.start_from else b""
        with EventLog(folder / "events.jsonl") as events:
            alliance = InProcessAlliance(group_specs(config, plan, folder, url, start))
            reporter = RunReporter(config, alliance.owners, console or Console(io.StringIO()), events)
            return alliance.play(config, reporter, plan.describe())


@contextmanager
def _torch_settings_kept() -> Iterator[None]:
    """Threads and determinism, which workers set for their process, are afterwards as they were."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
