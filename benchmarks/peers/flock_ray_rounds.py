"""Epochs of this project with local training and scoring simulated, in turn: `python -m … CASE FOLDER`.

CASE is JSON: `proposers`, `voters`, `voting`, `width`. Everything but training and scoring is the real thing: Ray
actors, messages and signatures, journals, payloads, the blob store, ballots, records, the chain.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.peers.turns import Turns
from benchmarks.simulated import SimulatedWorker, Simulation
from flock_ray.alliance import Alliance
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.cluster.coordinator_actor import coordinator_actors
from flock_ray.cluster.deadlines import Deadlines
from flock_ray.cluster.groups import NodeGroups
from flock_ray.cluster.launch import configuration_texts, group_specs, task_terms
from flock_ray.cluster.ledger import Ledger, NoLedger
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.placement import available_cpus, make_plan
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.runtime import frozen_garbage_collection, ray_cluster
from flock_ray.config import (
    AllianceConfig,
    ChainBackend,
    ChainConfig,
    ClusterConfig,
    Config,
    LoraConfig,
    MechanismConfig,
    ModelConfig,
    TrainingConfig,
    check,
)
from flock_ray.protocol.record import Record
from flock_ray.protocol.state import TaskState
from flock_ray.telemetry.events import EventLog

RANK = 8
MAX_EPOCHS = 32


class TurnTaker(Observer):
    """Waits for its turn before each epoch, and answers once the epoch is signed and settled."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._last: Record | None = None
        self._parts: Mapping[str, float] = {}

    def epoch_begins(self, state: TaskState) -> None:
        """The epoch before is over, settled too: answer, and wait for the next turn."""
        if self._turns.running and self._last:
            statuses = [one.status for one in self._last.proposals]
            self._turns.end(accepted=statuses.count("accepted"), parts=dict(self._parts))
        self._turns.begin()

    def epoch_ends(self, record: Record, losses: dict[int, float], wall_seconds: Mapping[str, float]) -> None:
        """Remember what to answer."""
        self._last = record
        self._parts = {kind: spent for kind, spent in wall_seconds.items() if kind != "overhead"}  # it holds the wait


def _to_stderr(line: str) -> None:
    """Standard output belongs to the turns."""
    print(line, file=sys.stderr)


def configure(case: Mapping[str, Any]) -> Config:
    """The configuration of a case."""
    cpus = max(1, available_cpus() // case["nodes"])
    config = Config(
        model=ModelConfig(source="simulated", path=Simulation(case["width"]).path),
        lora=LoraConfig(rank=RANK),
        training=TrainingConfig(steps=1, batch_size=1),
        alliance=AllianceConfig(
            num_members=case["proposers"] + case["voters"],
            hosts=case["nodes"],
            num_voters=case["voters"],
            num_proposers=case["proposers"],
            num_epochs=MAX_EPOCHS,
            band_floor=1,
            band_ceiling=1,
            max_unsettled=1,
            force=True,
        ),
        mechanism=MechanismConfig(name="marginal1" if case["voting"] else "open"),
        chain=ChainConfig(backend=ChainBackend(case["chain"])),
        cluster=ClusterConfig(nodes=case["nodes"], cpus_per_worker=cpus, threads_per_worker=cpus),
    )
    check(config)
    return config


def play(case: Mapping[str, Any], folder: Path, turns: Turns) -> None:
    """Load, found the task, then an epoch a turn."""
    config = configure(case)
    plan, run = make_plan(config), RunDirectory.create(folder, config)
    with ray_cluster(config.cluster), EventLog(run.events) as events:
        cluster = config.cluster
        groups = NodeGroups(
            group_specs(config, plan, run.path, str(run.store)),
            plan,
            Deadlines(cluster.phase_floor),
            cluster.placement_timeout,
            cluster.load_timeout,
            events.emit,
            SimulatedWorker,
        )
        try:
            reports = groups.start()
            accounts = dict(sorted(owner for report in reports for owner in report.accounts.items()))
            ledger: Ledger = NoLedger(config, accounts)
            if config.chain.backend is not ChainBackend.none:
                ledger = ChainLedger(config, run.path, accounts)
                ledger.deploy()
            state = ledger.create_task(task_terms(config, ledger.creator, reports), groups)
            run.write_task(state, ledger.relayer, ledger.facts(), ledger.balances(None), configuration_texts(config))
            task = RunningTask(state, ledger.domain, ledger.relayer, {silo: silo for silo in accounts})
            coordinators = coordinator_actors(groups.deadlines, cluster.load_timeout, _to_stderr)
            turns.ready(chain=ledger.facts()["backend"])
            alliance = replace(config.alliance, max_unsettled=0)
            with frozen_garbage_collection():
                Alliance(groups, coordinators, ledger, run, TurnTaker(turns), alliance, {}).run(task)
        finally:
            groups.stop()


if __name__ == "__main__":
    play(json.loads(sys.argv[1]), Path(sys.argv[2]), Turns())
