"""What dishonest members look up and compute is what the store and their data give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.adversary.vectors import distance, norm
from flock_ray.config import AdversaryConfig, ClusterConfig
from flock_ray.lora.algebra import subtract
from flock_ray.lora.serialization import MAX_ADAPTER_BYTES, Adapter, canonical_bytes
from flock_ray.store.blob_store import BlobStore
from flock_ray.wire_format.dense import read_canonical
from tests.cluster.plain_alliance import PlainAlliance, Play, load_node, tiny_config

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def coalition(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PlainAlliance:
    """Everybody but member 0 belongs to it, on one node."""
    config = tiny_config(tiny_model_dir)
    config = replace(
        config,
        adversary=AdversaryConfig("one_step", members=[1, 2, 3, 4, 5, 6]),
        cluster=ClusterConfig(nodes=1),
        alliance=replace(config.alliance, num_epochs=3),
    )
    return PlainAlliance(tmp_path_factory.mktemp("coalition"), config)


def blob(play: Play, digest: bytes) -> Adapter:
    node = play.alliance.nodes[0]
    data = BlobStore(play.alliance.specs[0].store_url).get(digest, MAX_ADAPTER_BYTES)
    return read_canonical(data, node._bench.updates.shapes)


def test_the_public_past_is_read_from_the_store_by_a_worker_that_was_not_there(coalition: PlainAlliance) -> None:
    play = coalition.found()
    first = play.epoch()
    second = play.epoch()
    rebuilt, _ = load_node(replace(coalition.specs[0], terms=coalition.nodes[0]._spec.terms))
    rebuilt.begin(play.task)
    for node in (coalition.nodes[0], rebuilt):
        context = node._hosting.members[1].context(play.state)
        past = context.known.past
        assert [one.epoch for one in past] == [1, 2]
        assert [(one.start, one.end) for one in past] == [
            (play.first_adapter, first.adapter), (first.adapter, second.adapter)
        ]  # fmt: skip
        for one, record in zip(past, (first, second), strict=True):
            assert one.scores == {p.member: p.consensus.score for p in record.proposals if p.consensus}
            for member, payload in one.payloads.items():
                sent = context.known.sent(payload)
                assert sent and canonical_bytes(sent) == canonical_bytes(blob(play, payload)), member
        accepted = [record for record in (first, second) if record.accepted]
        starts = {1: play.first_adapter, 2: first.adapter}
        moved = [subtract(blob(play, r.adapter), blob(play, starts[r.epoch])) for r in reversed(accepted)]
        assert list(map(canonical_bytes, context.movements(5))) == list(map(canonical_bytes, moved)) != []
    assert context.known.sent(b"\7" * 32) is None


def test_accomplices_train_as_honest_members_would_whether_drawn_or_not(coalition: PlainAlliance) -> None:
    play = coalition.found()
    node = coalition.nodes[0]
    drawn = min(set(play.state.roles.proposers) - {0})
    [ours] = node._insight.trained([drawn])
    [again], [short] = node._insight.trained([drawn]), node._insight.trained([drawn], steps=1)
    assert canonical_bytes(again) == canonical_bytes(ours) and distance(short, ours) > 0.3 * norm(ours)
    voter = min(set(play.state.roles.voters) - {0})
    other, same = node._insight.trained([voter, drawn])
    assert distance(same, ours) < 1e-3 * norm(ours) and distance(other, ours) > 0.3 * norm(ours)
    trained = node._bench.trainer.train([drawn], play.state.epoch, play.state.adapter)[drawn].delta
    assert distance(trained, ours) < 1e-3 * norm(ours)  # in a batch of others, so not to the last bit
    start = node._hosting.members[1].context(play.state).start
    assert node._insight.loss(1, start) == pytest.approx(play.first_losses[1], rel=1e-5)


def test_one_step_is_sent_in_place_of_all(coalition: PlainAlliance) -> None:
    play, node = coalition.found(), coalition.nodes[0]
    cheats = sorted(set(play.state.roles.proposers) - {0})
    short = {member: node._insight.trained([member], steps=1)[0] for member in cheats}
    payloads = {proposal.member: proposal.payload for proposal in play.epoch().proposals}
    for member in cheats:
        assert canonical_bytes(blob(play, payloads[member] or b"")) == canonical_bytes(short[member])
