"""Tasks under the mechanism `marginal` on real workers: both scores, all steps, and what the public knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.config import AdversaryConfig, AllianceConfig, Config, MechanismConfig
from flock_ray.in_process import Played, play
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.record import Record
from flock_ray.store.blob_store import BlobMissingError, BlobStore
from tests.cluster.plain_alliance import PlainAlliance, load_node, tiny_config

pytestmark = pytest.mark.model


def marginal_config(model: Path, num_epochs: int = 3, seed: int = 7) -> Config:
    config = tiny_config(model)
    own, plain = config.alliance, AllianceConfig()
    alliance = replace(own, num_epochs=num_epochs, band_floor=plain.band_floor, band_z=plain.band_z)
    return replace(config, seed=seed, alliance=alliance, mechanism=MechanismConfig("marginal"))


def played(model: Path, adversary: AdversaryConfig | None = None, num_epochs: int = 3, seed: int = 7) -> Played:
    return play(replace(marginal_config(model, num_epochs, seed), adversary=adversary or AdversaryConfig()))


def wei_of(task: Played) -> int:
    state = task.state
    return state.pool_left + state.withheld + sum(member.earned for member in state.members)


def test_a_task_ends_better_than_it_began_and_the_same_each_time(tiny_model_dir: Path) -> None:
    first, again = played(tiny_model_dir), played(tiny_model_dir)
    assert [record.data for record in first.records] == [record.data for record in again.records]
    assert first.state.finished and len(first.records) == 3
    assert sum(record.accepted for record in first.records) > 1
    assert wei_of(first) == first.state.terms.pool
    before, after = first.losses[0], first.losses[-1]
    assert sum(after.values()) < sum(before.values())
    for record in first.records:
        scored = [one for one in record.proposals if one.consensus]
        assert scored and all(one.entering for one in scored)
        assert [one.step for one in record.candidate.steps] in ([], [1, 2, 3, 5])
    assert [epoch["step"] for epoch in first.summary["epochs"]] == [record.candidate.step for record in first.records]


def test_before_there_is_a_move_both_scores_are_one_measurement(tiny_model_dir: Path) -> None:
    first, *others = played(tiny_model_dir).records
    assert first.accepted
    assert all(one.entering == one.consensus for one in first.proposals)
    assert any(one.entering != one.consensus for record in others for one in record.proposals)


@pytest.mark.parametrize("attack", ["resubmit", "resubmit_older"])
def test_what_the_public_knows_earns_nothing(tiny_model_dir: Path, attack: str) -> None:
    """From the epoch on in which there is a move to send again."""
    cheats, proposed = {0, 2, 4}, 0
    task = played(tiny_model_dir, AdversaryConfig(attack=attack, members=sorted(cheats)), 5)
    moves = 0
    for record in task.records:
        if moves > (attack == "resubmit_older"):
            for proposal in record.proposals:
                if proposal.member in cheats:
                    proposed += 1
                    assert proposal.status != "accepted"
                    assert not record.rewards.get(proposal.member)
                    assert any(member == proposal.member and charged for member, charged, _ in record.fees)
        moves += record.adapter != (task.records[record.epoch - 2].adapter if record.epoch > 1 else ZERO)
    assert proposed
    assert wei_of(task) == task.state.terms.pool


@pytest.fixture(scope="module")
def alliance(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PlainAlliance:
    return PlainAlliance(tmp_path_factory.mktemp("marginal"), marginal_config(tiny_model_dir, 4))


def test_one_node_or_two_sign_the_same_records(alliance: PlainAlliance, tiny_model_dir: Path, tmp_path: Path) -> None:
    config = alliance.config
    alone = PlainAlliance(tmp_path, replace(config, cluster=replace(config.cluster, nodes=1)))
    ours, theirs = alone.found(2_000, "marginal"), alliance.found(2_000, "marginal")
    for _ in range(3):
        assert ours.epoch().data == theirs.epoch().data
    assert ours.state == theirs.state and len(ours.state.earlier_adapters) > 1


def test_only_the_candidate_of_the_step_taken_is_in_the_store(alliance: PlainAlliance) -> None:
    task = alliance.found(mechanism="marginal")
    record = task.epoch()
    store = BlobStore(alliance.specs[0].store_url)
    assert record.accepted and record.candidate.step is not None
    for one in record.candidate.steps:
        if one.step == record.candidate.step:
            assert store.get(one.candidate, 1 << 30)
        else:
            with pytest.raises(BlobMissingError):
                store.get(one.candidate, 1 << 30)


@pytest.fixture(scope="module")
def third_epoch(alliance: PlainAlliance) -> tuple[object, ...]:
    """An epoch with two moves before it, played until it is signed."""
    task = alliance.found(3_000, "marginal")
    records: list[Record] = [task.epoch(), task.epoch()]
    assert all(record.accepted for record in records)
    before = task.task
    record, bulletin = task.until_signing()
    return task, before, record, bulletin, task.signatures(record, bulletin)


@pytest.mark.parametrize("phase", ["train", "commit_ballots_a", "commit_ballots_b", "sign"])
def test_a_node_that_has_just_begun_comes_to_the_same(
    alliance: PlainAlliance, third_epoch: tuple[object, ...], phase: str
) -> None:
    """It fetches the adapters before, whether it was restarted or its members joined late."""
    task, before, record, bulletin, signatures = third_epoch  # type: ignore[misc]
    for index, spec in enumerate(alliance.specs):
        node, _ = load_node(spec)
        node.begin(before)
        if phase == "sign":
            hosted = {voter: one for voter, one in signatures.items() if voter in spec.silos}
            assert node.sign(record.data, bulletin).signatures == hosted
        else:
            assert getattr(node, phase)(*task.arguments(phase)).messages == task.results[phase][index].messages
        node.close()
