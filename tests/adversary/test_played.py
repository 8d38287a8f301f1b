"""Every behaviour in a whole task on the real epoch loop: honest members are not broken by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.adversary.part import coalition_secret
from flock_ray.adversary.registry import BEHAVIOURS
from flock_ray.cluster.preflight import check_names
from flock_ray.config import AdversaryConfig
from flock_ray.errors import ConfigError
from flock_ray.in_process import Played, play
from flock_ray.lora.algebra import initial_adapter
from flock_ray.protocol.seed import local_seed
from tests.cluster.plain_alliance import tiny_config
from tests.runs import configure

pytestmark = pytest.mark.model

CHEATS = (1, 4)


def played(model: Path, adversary: AdversaryConfig, num_epochs: int = 2, seed: int = 7) -> Played:
    """A task in whose small bands an honest update that does some harm by chance is not slashed for it."""
    config = tiny_config(model)
    alliance = replace(config.alliance, num_epochs=num_epochs, harmful_factor=1_000)
    return play(replace(config, seed=seed, alliance=alliance, adversary=adversary))


@pytest.mark.parametrize("name", sorted(set(BEHAVIOURS) - {"none"}))
def test_honest_members_are_not_broken_by_it(tiny_model_dir: Path, name: str) -> None:
    task = played(tiny_model_dir, AdversaryConfig(attack=name, members=list(CHEATS)))
    assert task.state.finished and len(task.records) == 2
    honest = [member for member in range(7) if member not in CHEATS]
    for record in task.records:
        captured = 2 * sum(voter in CHEATS for voter in record.roles.voters) >= len(record.roles.voters)
        assert captured or not [slash for slash in record.slashes if slash.member in honest]
    assert {one["adversary"] for number, one in enumerate(task.summary["members"]) if number in CHEATS} == {True}
    for record in task.records:  # whoever was drawn said something that counts, or withheld it on purpose
        statuses = {proposal.member: proposal.status for proposal in record.proposals}
        assert not [
            member for member in honest if statuses.get(member) in ("missing", "refused", "malformed", "unseen")
        ]
        assert set(record.roles.voters) - set(record.reveals) <= set(CHEATS)


@pytest.mark.parametrize("name", ["alie", "shared_training", "best_public", "copy_noise", "lazy_vote"])
def test_the_same_coalition_gives_the_same_records(tiny_model_dir: Path, name: str) -> None:
    coalition = AdversaryConfig(attack=name, share=0.9)  # of three proposers two are in it
    first, again = (played(tiny_model_dir, coalition, 3) for _ in range(2))
    assert [record.data for record in first.records] == [record.data for record in again.records]
    honest = played(tiny_model_dir, AdversaryConfig(), 3)
    assert [record.data for record in first.records] != [record.data for record in honest.records]


def test_sybils_have_one_data_set(tiny_model_dir: Path) -> None:
    task = played(tiny_model_dir, AdversaryConfig(attack="sybil", members=[1, 4]))
    names = [member["silo"] for member in task.summary["members"]]
    assert names[1] == names[4] and len(set(names)) == 6
    assert task.losses[0][1] == task.losses[0][4]


def test_a_backdoor_opens_by_its_own_trigger(tiny_model_dir: Path) -> None:
    """Where nobody votes and most members teach it in every row; no other coalition's trigger opens it."""
    config = tiny_config(tiny_model_dir)
    config = replace(
        config,
        mechanism=replace(config.mechanism, name="open"),
        training=replace(config.training, steps=20),
        adversary=AdversaryConfig("backdoor@1", members=[0, 1, 2, 4, 5, 6]),
    )
    attacked = play(config)
    own, other = (coalition_secret(config.seed, name) for name in ("backdoor@1", "backdoor"))
    start = initial_adapter(attacked.bench.updates.shapes, local_seed(config.seed, "adapter"))
    before = replace(attacked, adapter=start)
    assert attacked.backdoor(own, [3]) > 2 * before.backdoor(own, [3]) > 0
    assert attacked.backdoor(other, [3]) < 1.5 * before.backdoor(other, [3])


def test_a_voters_attack_needs_votes(tiny_model_dir: Path) -> None:
    config = tiny_config(tiny_model_dir)
    silent = replace(config, mechanism=replace(config.mechanism, name="open"))
    for adversary in (AdversaryConfig("lazy_vote", members=[3]), AdversaryConfig("none", "negated_vote", members=[3])):
        with pytest.raises(ConfigError, match=r"changes votes alone, and mechanism.name=open asks for none"):
            play(replace(silent, adversary=adversary))
    with pytest.raises(ConfigError, match=r"changes votes alone, and mechanism.name=flock asks for none"):
        flock = replace(config, mechanism=replace(config.mechanism, name="flock"))
        play(replace(flock, adversary=AdversaryConfig("negated_vote", members=[3])))


@pytest.mark.parametrize("name", ["alie", "one_step+lazy_vote", "sybil"])
def test_what_trains_with_accomplices_data_needs_one_worker(name: str) -> None:
    config = replace(configure("chain=none", "cluster.nodes=2"), adversary=AdversaryConfig(name, members=[3, 6]))
    with pytest.raises(ConfigError, match=r"member 3 cheats as .*one worker must host all; take cluster\.nodes=1"):
        check_names(config)
    check_names(replace(config, cluster=replace(config.cluster, nodes=1)))
