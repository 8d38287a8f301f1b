"""The summary of a run, from what its parts know at the end."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from flock_ray.cluster.ledger import Ledger
from flock_ray.cluster.run_reporter import RunReporter
from flock_ray.cluster.spec import GroupInfo
from flock_ray.config import Config
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.state import TaskState
from flock_ray.telemetry.summary import build_summary
from flock_ray.telemetry.views import Answer, MemberTotal

PACKAGES = ("ray", "torch", "deepspeed", "peft", "transformers", "web3")


def summarize(
    config: Config, run_id: str, state: TaskState, base: GroupInfo, ledger: Ledger, reporter: RunReporter,
    totals: Sequence[MemberTotal], placement: str, abandoned: Sequence[int] = (), answers: Sequence[Answer] = (),
) -> dict[str, Any]:  # fmt: skip
    """What summary.json holds.

    Args:
        config: of the run.
        run_id: its name.
        state: after its last epoch.
        base: what its first node group told of the base model.
        ledger: where it was settled.
        reporter: saw it.
        totals: of all its members.
        placement: where it ran, in words.
        abandoned: numbers of its abandoned epochs.
        answers: to the report's prompts.
    """
    return build_summary(
        run_id=run_id,
        task_id=to_hex(state.scope.task),
        model=base.model_name,
        epochs=reporter.views,
        members=totals,
        final_adapter_hash=to_hex(state.adapter),
        chain=ledger.facts(),
        facts={
            "seed": config.seed,
            "mechanism": config.mechanism.name,
            "model_hash": base.hashes.weights,
            "model_dtype": base.model_dtype,
            "num_parameters": base.num_parameters,
            "placement": placement,
            "load_seconds": round(reporter.load_seconds, 3),
            "abandoned_epochs": abandoned,
            "start_from": config.start_from or None,
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        },
        answers=answers,
    )
