from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.default_experiment import SEEDS
from flock_ray.adversary.attack import Attack
from flock_ray.chain.keys import run_signer
from flock_ray.cluster.launch import task_terms
from flock_ray.cluster.member import Member
from flock_ray.config import Config
from flock_ray.protocol.roles import Roles, roles
from flock_ray.protocol.seed import fixed_genesis, next_seed, reveals_digest
from flock_ray.training.model import prepare_packaged, weights_hash
from tests.runs import configure

pytestmark = pytest.mark.model


def drawn(config: Config, folder: Path) -> list[Roles]:
    """The roles of all epochs of a run in which every voter reveals."""
    report: Any = SimpleNamespace(
        model_hash=weights_hash(prepare_packaged()), adapter=b"", model_dtype="", model_name=""
    )
    terms, alliance = task_terms(config, [report]), config.alliance
    task, seed = terms.task_id(config.seed), fixed_genesis(config.seed)
    reveals = alliance.num_epochs + alliance.spare_reveals
    chains = [
        Member(
            number, run_signer(config.seed, f"member-{number}"), folder / str(number), Attack(1.0), reveals
        ).hash_chain(task)
        for number in range(alliance.num_members)
    ]
    found = []
    for epoch in range(1, alliance.num_epochs + 1):
        owners = tuple(range(alliance.num_members))
        found.append(roles(seed, task, epoch, owners, alliance.num_voters, alliance.num_proposers))
        seed = next_seed(seed, reveals_digest({one: chains[one].preimage(epoch) for one in found[-1].voters}))
    return found


def test_the_demonstration_shows_a_cheat_that_proposes_and_members_that_all_earn(tmp_path: Path) -> None:
    """Roles follow from the configuration: when it changes, so must the seeds of the default experiment."""
    config = configure()
    assert config.seed == SEEDS[0]
    [cheat] = config.adversary.members
    for seed in SEEDS:
        epochs = drawn(configure(f"seed={seed}"), tmp_path / str(seed))
        assert any(cheat in one.proposers for one in epochs)
        voted = {voter for one in epochs for voter in one.voters}
        assert voted >= set(range(config.alliance.num_members)) - {cheat}
