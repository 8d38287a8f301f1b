"""What encoding lost of a member's update goes into its next one, wherever its worker runs by then."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flock_ray.cluster.residuals import ResidualLostError, Residuals
from flock_ray.cluster.spec import PhaseResult
from flock_ray.cluster.worker import Worker
from flock_ray.config import WireFormatConfig
from flock_ray.lora.serialization import Adapter, adapter_hash, canonical_bytes
from flock_ray.protocol.epoch import skip
from flock_ray.protocol.message import Message
from flock_ray.protocol.record import Record
from flock_ray.protocol.state import TaskState
from flock_ray.store.batch import Batch
from flock_ray.verify.candidate import Payloads
from flock_ray.verify.epoch import replay
from flock_ray.wire_format.feedback import encode_with_feedback
from tests.cluster.plain_alliance import PlainAlliance, Play, load_node, tiny_config
from tests.cluster.test_replayed_candidate import Blobs

pytestmark = pytest.mark.model

JUDGED = {"accepted", "rejected", "harmful"}
"""What becomes of updates that everybody could read."""


@pytest.fixture(scope="module")
def rounded(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainAlliance]:
    """Loaded nodes whose updates travel in bfloat16, for tasks of four epochs."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    config = tiny_config(tiny_model_dir)
    alliance = replace(config.alliance, num_epochs=4)
    config = replace(config, alliance=alliance, wire_format=WireFormatConfig("bf16_feedback"))
    yield PlainAlliance(tmp_path_factory.mktemp("rounded"), config)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@dataclass
class Encoding:
    """One call of the proposers' pipeline."""

    update: Adapter
    carried: Adapter | None
    payload: bytes
    residual: Adapter | None


class Watch:
    """Notes how payloads are made while a test runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Encoding] = []

        def noted(wire_format: Any, shapes: Any, update: Adapter, carried: Adapter | None) -> Any:
            made = encode_with_feedback(wire_format, shapes, update, carried)
            self.seen.append(Encoding(update, carried, *made))
            return made

        monkeypatch.setattr("flock_ray.cluster.proposal_encoder.encode_with_feedback", noted)

    def take(self) -> list[Encoding]:
        taken, self.seen = self.seen, []
        return taken


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def by_member(play: Play, encodings: list[Encoding]) -> dict[int, Encoding]:
    """Encodings of an epoch's proposers, each node's in rising order."""
    nodes = play.alliance.specs
    order = [member for spec in nodes for member in sorted(set(spec.silos) & set(play.state.roles.proposers))]
    return dict(zip(order, encodings, strict=True))


def proposing_again(alliance: PlainAlliance, watch: Watch) -> tuple[Play, int, Encoding, Record]:
    """A task before its second epoch, a member that proposes in both, and how it encoded its first update."""
    while True:
        watch.take()
        play = alliance.found()
        first = set(play.state.roles.proposers)
        record, bulletin = play.until_signing()
        encoded = by_member(play, watch.take())
        play.attest(record, bulletin)
        if again := sorted(first & set(play.state.roles.proposers)):
            return play, again[0], encoded[again[0]], record


def told(results: list[PhaseResult]) -> dict[int, str]:
    """{member: why} of the residuals that were lost."""
    return {
        int(str(fields["member"])): str(fields["why"])
        for result in results
        for kind, fields in result.events
        if kind == "residual_lost"
    }


def same(left: Adapter | None, right: Adapter | None) -> bool:
    return left is not None and right is not None and canonical_bytes(left) == canonical_bytes(right)


def residuals_of(play: Play) -> Path:
    return Path(play.alliance.specs[0].store_url) / "signed" / play.state.scope.task.hex() / "residuals"


def elsewhere(play: Play, member: int, folder: Path) -> Worker:
    """The worker of a member, rebuilt where its folder is not."""
    spec = play.alliance.specs[play.alliance.node_of(member)]
    worker, _ = load_node(replace(spec, state_dir=str(folder)))
    worker.begin(play.task)
    return worker


def test_a_task_learns_and_what_a_member_could_not_send_goes_into_its_next_update(
    rounded: PlainAlliance, watch: Watch
) -> None:
    play = rounded.found(5_000)
    last: dict[int, Encoding] = {}
    used = 0
    while not play.state.finished:
        proposers = set(play.state.roles.proposers)
        record, bulletin = play.until_signing()
        assert {proposal.status for proposal in record.proposals} <= JUDGED
        encoded = by_member(play, watch.take())
        assert set(encoded) == proposers
        for member, encoding in encoded.items():
            before = last.get(member)
            assert (encoding.carried is None) if before is None else same(encoding.carried, before.residual)
            assert any(bool(factor.any()) for factor in (encoding.residual or {}).values())
            used += before is not None
        last |= encoded
        replayed = replay(play.state, [Message.parse(signed.data) for signed in bulletin])
        folder: Any = Blobs(rounded.specs[0].store_url)
        assert Payloads(folder, play.state.terms).check(replayed) == len(proposers)
        play.attest(record, bulletin)
    assert used > 2 and sum(play.losses().values()) < sum(play.first_losses.values())


def test_a_member_rebuilt_on_another_machine_finds_its_residual(
    rounded: PlainAlliance, watch: Watch, tmp_path: Path
) -> None:
    play, member, before, _ = proposing_again(rounded, watch)
    answer = elsewhere(play, member, tmp_path).train()
    carried = [encoding.carried for encoding in watch.take()]
    assert any(same(one, before.residual) for one in carried)
    play.alliance.nodes[play.alliance.node_of(member)].begin(play.task)
    play.exchange("train")
    assert answer.messages == play.results["train"][play.alliance.node_of(member)].messages != ()
    assert told([answer, *play.results["train"]]) == {}


def test_a_phase_that_is_asked_again_gives_the_same_payload(
    rounded: PlainAlliance, watch: Watch, tmp_path: Path
) -> None:
    play, member, _, _ = proposing_again(rounded, watch)
    play.exchange("train")
    node = play.alliance.node_of(member)
    first, kept = play.results["train"][node].messages, set(residuals_of(play).rglob("*"))
    encoded = len(watch.take())
    assert play.alliance.nodes[node].train().messages == first and not watch.seen
    worker = elsewhere(play, member, tmp_path)
    assert worker.train().messages == first
    assert 0 < len(watch.take()) <= encoded and set(residuals_of(play).rglob("*")) == kept
    for phase in ("acknowledge", "publish"):
        play.exchange(phase)
    worker = elsewhere(play, member, tmp_path / "again")
    assert worker.publish().messages == play.results["publish"][node].messages != ()


def lose_entries(play: Play) -> None:
    [folder] = residuals_of(play).parent.glob("1-*")
    shutil.rmtree(folder)


def lose_all(play: Play) -> None:
    shutil.rmtree(residuals_of(play))


def lose_residuals(play: Play) -> None:
    for path in residuals_of(play).glob("*/*"):
        if not path.read_bytes().startswith(b"{"):  # records
            path.unlink()


def damage_residuals(play: Play) -> None:
    for path in residuals_of(play).glob("*/*"):
        data = path.read_bytes()
        if not data.startswith(b"{"):
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("lose", "why"),
    [
        (lose_entries, "no entry of its commitment of epoch 1"),
        (lose_all, "the store has no record"),
        (lose_residuals, "is not in the store"),
        (damage_residuals, "is corrupted"),
    ],
)
def test_a_member_goes_on_without_a_residual_that_is_lost_and_says_so(
    rounded: PlainAlliance, watch: Watch, lose: Any, why: str
) -> None:
    play, member, _, _ = proposing_again(rounded, watch)
    lose(play)
    for node in rounded.nodes:
        node.begin(play.task)
    record = play.epoch()
    lost = told(play.results["train"])
    assert why in lost[member]
    assert by_member_carried(watch.take()) == 0 and lost.keys() <= {one.member for one in record.proposals}
    assert {proposal.status for proposal in record.proposals} <= JUDGED


def by_member_carried(encodings: list[Encoding]) -> int:
    """How many updates had something added."""
    return sum(encoding.carried is not None for encoding in encodings)


def test_what_an_abandoned_epoch_left_is_never_read_again(rounded: PlainAlliance, watch: Watch) -> None:
    """The second epoch is signed and abandoned: in the third a member has what the first left it, or nothing."""
    seen: defaultdict[str, int] = defaultdict(int)
    while not (seen["first"] and seen["nothing"]):
        play = rounded.found()
        watch.take()
        record, bulletin = play.until_signing()
        first = by_member(play, watch.take())
        play.attest(record, bulletin)
        before = play.state
        record, bulletin = play.until_signing()
        abandoned = by_member(play, watch.take())
        play.attest(record, bulletin)
        play.state = skip(before)
        play.coordinator.begin(play.task)
        for node in rounded.nodes:
            node.begin(play.task)
        assert play.state.epoch == 3
        play.exchange("train")
        for member, encoding in by_member(play, watch.take()).items():
            if member in first:
                assert same(encoding.carried, first[member].residual)
                seen["first"] += member in abandoned
            else:
                assert encoding.carried is None
                seen["nothing"] += member in abandoned
        assert told(play.results["train"]) == {}


def test_nobody_else_can_read_a_residual_or_pass_one_off(rounded: PlainAlliance, watch: Watch) -> None:
    play, member, before, record = proposing_again(rounded, watch)
    owner, stranger = rounded.member(member), rounded.member((member + 1) % 7)
    assert before.residual is not None
    plain = canonical_bytes(before.residual)
    sealed = [path.read_bytes() for path in residuals_of(play).glob("*/*")]
    assert not any(plain in data or b"lora_A" in data for data in sealed)
    opened = [owner.unseal(record.task, 1, record.seed, "residual", data) for data in sealed]
    assert opened.count(plain) == 1 and set(opened) == {plain, None}
    assert not any(stranger.unseal(record.task, 1, record.seed, "residual", data) == plain for data in sealed)
    assert not any(owner.unseal(record.task, 2, record.seed, "residual", data) for data in sealed)
    assert not any(owner.unseal(record.task, 1, record.next_seed, "residual", data) for data in sealed)


def test_equal_residuals_are_sealed_to_equal_bytes(rounded: PlainAlliance, tmp_path: Path) -> None:
    play = rounded.found()
    kept = Residuals(str(tmp_path), play.state.scope.task, rounded.nodes[0]._bench.updates.shapes)
    residual = {key: torch.ones(shape) for key, shape in rounded.nodes[0]._bench.updates.shapes.items()}
    with Batch() as batch:
        first, again = (kept.put(rounded.member(0), play.state, residual, batch) for _ in range(2))
        other = kept.put(rounded.member(1), play.state, residual, batch)
        later = kept.put(rounded.member(0), skip(play.state), residual, batch)
    assert first == again and len({first["residual"], other["residual"], later["residual"]}) == 3


def test_without_records_or_before_the_first_epoch_there_is_none(rounded: PlainAlliance, tmp_path: Path) -> None:
    state: TaskState = rounded.found().state
    kept = Residuals(str(tmp_path), state.scope.task, {})
    assert kept.carried(rounded.member(0), 0, state) is None
    with pytest.raises(ResidualLostError, match="no record"):
        kept.carried(rounded.member(0), 0, replace(state, previous_record=b"\1" * 32))


def test_a_lossless_format_keeps_nothing(alliance: PlainAlliance) -> None:
    play = alliance.found()
    record = play.epoch()
    assert residuals_of(play).parent.exists() and not residuals_of(play).exists()
    assert adapter_hash(alliance.nodes[0]._bench.updates.adapter(record.adapter)) == record.adapter
