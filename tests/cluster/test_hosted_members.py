"""What a member signed outlives its folder: another machine says the same, or sits the epoch out and says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.cluster.hosted_members import ANOTHER_UPDATE, HIDDEN, LOST, UNREPEATABLE
from flock_ray.cluster.member import Member
from flock_ray.cluster.signing_log import SigningEntry, SigningLog, by_silo
from flock_ray.cluster.spec import PhaseResult
from flock_ray.cluster.worker import Worker
from flock_ray.errors import ProtocolError
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.message import Kind, Message
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore
from flock_ray.store.failures import SegmentTakenError
from tests.cluster.plain_alliance import PHASES, PlainAlliance, load_node

pytestmark = pytest.mark.model


class Moved:
    """A task whose group of one of its voters is rebuilt where its members' folders are not."""

    def __init__(self, alliance: PlainAlliance, folder: Path) -> None:
        self.alliance, self.folder, self.play = alliance, folder, alliance.found()
        self.index = alliance.node_of(self.play.state.roles.voters[0])
        spec = alliance.specs[self.index]
        self.members = spec.silos
        self.spec = replace(spec, state_dir=str(folder / "elsewhere"))

    def until(self, phase: str) -> None:
        """Play the phases before this one."""
        for earlier in list(PHASES)[: list(PHASES).index(phase)]:
            self.play.exchange(earlier)

    def rebuilt(self) -> tuple[Worker, PhaseResult]:
        """The worker as another machine starts it, and what it answers when it takes up the epoch."""
        worker, _ = load_node(self.spec)
        return worker, worker.begin(self.play.task)

    def signed(self) -> list[Path]:
        """Folders of this task's entries of epochs after the first."""
        return sorted((Path(self.spec.store_url) / "signed" / self.play.state.scope.task.hex()).glob("1-*"))

    def of_role(self, seats: tuple[int, ...]) -> set[int]:
        return set(seats) & set(self.members)


@pytest.fixture
def moved(alliance: PlainAlliance, tmp_path: Path) -> Moved:
    return Moved(alliance, tmp_path)


def told(result: PhaseResult, kind: str) -> dict[int, object]:
    """{member: why} of the events of a kind."""
    return {int(str(fields["member"])): fields.get("why") for name, fields in result.events if name == kind}


def kinds(result: PhaseResult) -> set[Kind]:
    return {Message.parse(message.data).kind for message in result.messages}


@pytest.mark.parametrize("phase", ["reveal_ballots_a", "reveal_ballots_b"])
def test_a_group_moved_between_commitment_and_reveal_reveals_the_same_ballots(moved: Moved, phase: str) -> None:
    moved.until(phase)
    worker, begun = moved.rebuilt()
    assert set(told(begun, "folder_restored")) == set(moved.members) and not told(begun, "sat_out")
    answer = getattr(worker, phase)(*moved.play.arguments(phase))
    with pytest.raises(SegmentTakenError, match="another process wrote it meanwhile"):
        moved.play.exchange(phase)  # the old process, which was only taken for dead
    moved.play.exchange(phase)  # asked again it knows what the other signed
    assert answer.messages == moved.play.results[phase][moved.index].messages != ()
    assert not told(answer, "sat_out")


def test_a_member_without_folder_and_entries_sits_one_epoch_out_and_says_so(moved: Moved) -> None:
    moved.until("reveal_ballots_a")
    shutil.rmtree(Path(moved.spec.store_url) / "signed" / moved.play.state.scope.task.hex())
    worker, begun = moved.rebuilt()
    assert told(begun, "sat_out") == dict.fromkeys(moved.members, LOST)
    answer = worker.reveal_ballots_a(*moved.play.arguments("reveal_ballots_a"))
    assert answer.messages == ()
    record, bulletin = moved.play.until_signing()
    assert not set(worker.sign(record.data, bulletin).signatures)
    worker.advance(moved.play.attest(record, bulletin), bulletin)
    assert worker._hosting.sitting_out == {}
    _, begun = moved.rebuilt()
    assert not told(begun, "sat_out")


def test_a_member_that_sees_a_message_of_its_own_without_an_entry_sits_out(moved: Moved) -> None:
    """The store lost this epoch's entries only; the bulletin shows that there were some."""
    moved.until("reveal_ballots_a")
    for folder in moved.signed():
        shutil.rmtree(folder)
    worker, begun = moved.rebuilt()
    assert not told(begun, "sat_out")
    answer = worker.reveal_ballots_a(*moved.play.arguments("reveal_ballots_a"))
    roles = moved.play.state.roles
    sent = moved.of_role(roles.voters) | moved.of_role(roles.proposers)
    assert answer.messages == () and told(answer, "sat_out") == dict.fromkeys(sorted(sent), HIDDEN)


def test_an_update_that_comes_out_differently_is_not_published(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    proposer = moved.play.state.roles.proposers[0]
    moved.index = moved.alliance.node_of(proposer)
    moved.spec = replace(moved.alliance.specs[moved.index], state_dir=moved.spec.state_dir)
    moved.until("publish")
    worker, _ = moved.rebuilt()
    trainer = worker._bench.trainer
    job = trainer._job
    monkeypatch.setattr(trainer, "_job", lambda member, epoch, *given: job(member, epoch + 1, *given))
    assert told(worker.publish(), "sat_out")[proposer] == ANOTHER_UPDATE


def test_a_ballot_that_comes_out_differently_leaves_the_signed_one_standing(
    moved: Moved, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved.until("commit_ballots_a")
    moved.play.exchange("commit_ballots_a")
    worker, _ = moved.rebuilt()
    monkeypatch.setattr("flock_ray.cluster.scorer.paired_score", other_score)
    answer = worker.commit_ballots_a(*moved.play.arguments("commit_ballots_a"))
    assert answer.messages == moved.play.results["commit_ballots_a"][moved.index].messages
    assert set(told(answer, "repeated")) == moved.of_role(moved.play.state.roles.voters)


def other_score(*_: object) -> object:
    from flock_ray.protocol.ballot import Score

    return Score(123, 4)


def test_a_message_that_the_store_lost_too_is_not_repeated(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    moved.until("commit_ballots_a")
    moved.play.exchange("commit_ballots_a")
    worker, _ = moved.rebuilt()
    store = BlobStore(moved.spec.store_url)
    for message in moved.play.results["commit_ballots_a"][moved.index].messages:
        store.path_of(Message.parse(message.data).digest).unlink()
    monkeypatch.setattr("flock_ray.cluster.scorer.paired_score", other_score)
    answer = worker.commit_ballots_a(*moved.play.arguments("commit_ballots_a"))
    assert answer.messages == ()
    voters = moved.of_role(moved.play.state.roles.voters)
    assert told(answer, "sat_out") == dict.fromkeys(voters, UNREPEATABLE)


def test_a_member_that_sits_out_does_so_too_when_the_epoch_is_taken_up_again(moved: Moved) -> None:
    """As it is when the coordinator is replaced, whose new bulletin shows nothing of what was signed."""
    moved.until("reveal_ballots_a")
    for folder in moved.signed():
        shutil.rmtree(folder)
    worker, _ = moved.rebuilt()
    worker.reveal_ballots_a(*moved.play.arguments("reveal_ballots_a"))
    before = dict(worker._hosting.sitting_out)
    worker.begin(moved.play.task)
    assert worker._hosting.sitting_out == before != {}
    proposers = moved.of_role(moved.play.state.roles.proposers)
    assert not {Message.parse(message.data).member for message in worker.train().messages} & (proposers & before.keys())


def test_an_old_message_without_its_entry_gets_no_new_ballot(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder has the commitment and the store lost the entry: the new ballot is not what it commits to."""
    moved.until("commit_ballots_a")
    moved.play.exchange("commit_ballots_a")
    for folder in moved.signed():
        shutil.rmtree(folder)
    worker, _ = load_node(moved.alliance.specs[moved.index])
    worker.begin(moved.play.task)
    monkeypatch.setattr("flock_ray.cluster.scorer.paired_score", other_score)
    again = worker.commit_ballots_a(*moved.play.arguments("commit_ballots_a"))
    assert again.messages == moved.play.results["commit_ballots_a"][moved.index].messages
    assert worker.reveal_ballots_a(*moved.play.arguments("reveal_ballots_a")).messages == ()


def test_folder_and_store_that_tell_of_two_digests_are_no_reason_to_sign_a_third(moved: Moved) -> None:
    member, state = moved.alliance.member(moved.members[0]), moved.play.state
    with Batch() as batch:
        entry = member.record(state, "report", bytes(32), None, batch)
    assert entry
    fresh = Member(member.silo, member.signer, moved.folder / "fresh", member.behaviour, 4)
    fresh.restore(state, [entry])
    for digest in (b"\1" * 32, b"\2" * 32):
        with pytest.raises(ProtocolError, match="refusing to sign a second report"), Batch() as batch:
            fresh.record(state, "report", digest, None, batch)
    assert fresh.signed(state) == {"report": bytes(32)}


@pytest.mark.parametrize("swaps", [(True, False), (False, True), (True, True)])
def test_hosts_that_move_between_groups_change_no_byte(alliance: PlainAlliance, swaps: tuple[bool, bool]) -> None:
    """As roles fall: the groups have each other's hosts in the first epoch, or only in the second, or in both."""
    seed = 5_000 + 2 * swaps[0] + swaps[1]
    undisturbed = alliance.found(seed)
    expected = [undisturbed.epoch().data for _ in range(2)]
    shutil.rmtree(Path(alliance.specs[0].store_url) / "signed" / undisturbed.state.scope.task.hex())
    play = alliance.found(seed)
    homes = [spec.hosts for spec in alliance.specs]

    def assign(swapped: bool) -> None:
        for worker, hosts in zip(alliance.nodes, reversed(homes) if swapped else homes, strict=True):
            worker.assign(hosts)

    try:
        assign(swaps[0])
        for worker in alliance.nodes:
            worker.begin(play.task)
        record, bulletin = play.until_signing()
        signatures = play.signatures(record, bulletin)
        attestation, play.state = play.coordinator.attest(record, signatures)
        assign(swaps[1])
        for worker in alliance.nodes:
            worker.advance(attestation, bulletin)
        assert [record.data, play.epoch().data] == expected
    finally:
        assign(False)


def swapped(entries: list[SigningEntry]) -> list[SigningEntry]:
    """Each under the name of another member."""
    return [replace(entry, silo=other.silo) for entry, other in zip(entries, entries[1:] + entries[:1], strict=True)]


def renamed(entries: list[SigningEntry]) -> list[SigningEntry]:
    return [replace(entry, kind=Kind.BALLOT_B_COMMITMENT) for entry in entries]


def damaged(entries: list[SigningEntry]) -> list[SigningEntry]:
    return [replace(entry, sealed=entry.sealed[:-1] + bytes([entry.sealed[-1] ^ 1])) for entry in entries]


@pytest.mark.parametrize("forge", [swapped, renamed, damaged])
def test_entries_that_somebody_else_made_or_moved_prove_nothing(
    moved: Moved, forge: Callable[[list[SigningEntry]], list[SigningEntry]]
) -> None:
    member = moved.alliance.member(moved.members[0])
    state = moved.play.state
    with Batch() as batch:
        entries = [
            entry
            for number in moved.members[:2]
            if (entry := moved.alliance.member(number).record(state, Kind.BALLOT_A_COMMITMENT, bytes(32), None, batch))
        ]
    fresh = Member(member.silo, member.signer, moved.folder / "fresh", member.behaviour, 4)
    fresh.restore(state, by_silo(forge(entries)).get(member.silo, ()))
    assert fresh.signed(state) == {}
    fresh.restore(state, [entries[0]])
    assert fresh.signed(state) == {Kind.BALLOT_A_COMMITMENT: bytes(32)}


@pytest.mark.parametrize("hostile", [b"", b"[", b"{}", b'[["0","joined","00"]]', b'[[0,"joined","zz"]]', b"[[0]]"])
def test_a_hostile_segment_holds_no_entries(tmp_path: Path, hostile: bytes) -> None:
    path = tmp_path / "signed" / bytes(32).hex() / f"0-{ZERO.hex()[:16]}" / "3" / "0"
    path.parent.mkdir(parents=True)
    path.write_bytes(hostile)
    log = SigningLog(BlobStore(str(tmp_path)), bytes(32), 0, ZERO, 3)
    assert log.read() == [] and log.num_ignored == 1
