"""The task after a demonstration: one in which the member with the corrections proposes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from flock_ray.cluster.launch import chain_terms, terms_of
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.cluster.spec import with_model
from flock_ray.config import Config
from flock_ray.protocol.encoding import from_hex
from flock_ray.protocol.roles import roles
from flock_ray.protocol.seed import fixed_genesis
from flock_ray.training.model import ModelHashes


def drawing_pool(config: Config, run: Path) -> int:
    """The smallest pool with which the last member proposes in epoch 1: who is drawn follows from the task's id.

    Args:
        config: of the next task, on a chain of its own.
        run: whose adapter it starts from.
    """
    task, _, _ = RunDirectory(run).read_task()
    hashes = ModelHashes(*(from_hex(task["terms"][name]) for name in ("base_model", "model_config", "tokenizer")))
    start = from_hex(json.loads((run / "summary.json").read_text())["final_adapter_hash"])
    members, alliance = range(config.alliance.num_members), config.alliance
    for pool in range(alliance.pool, alliance.pool + 1_000):
        now = replace(config, alliance=replace(alliance, pool=pool))
        terms = with_model(terms_of(now), task["creator"], hashes, start)
        seed = fixed_genesis(config.seed)
        name = chain_terms(now, terms).task_id(task["creator"], seed)
        if members[-1] in roles(seed, name, 1, members, terms.num_voters, terms.num_proposers).proposers:
            return pool
    raise AssertionError("a thousand draws")
