"""Workers of a contest, in this process: what they say when asked again, what strangers can do to them, who signs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.cluster.contest_worker import ContestWorker
from flock_ray.cluster.spec import PhaseResult
from flock_ray.errors import ProtocolError
from flock_ray.protocol.contest_message import ContestKind
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.message import SignedMessage
from flock_ray.verify.contest import check_day
from flock_ray.verify.report import SigningDomain
from tests.cluster.plain_contest import PlainContest
from tests.contests import configure, overrides_of
from tests.protocol.contest_players import entry_of

pytestmark = pytest.mark.model

HONEST = ("adversary.members=null", "cluster.nodes=1")
NODE = 5


@pytest.fixture
def contest(tiny_model_dir: Path, tmp_path: Path) -> Iterator[PlainContest]:
    yield PlainContest(tmp_path / "run", configure(*overrides_of(tiny_model_dir, tmp_path, *HONEST)))


def test_honest_days_end_as_the_verifier_derives_them(contest: PlainContest) -> None:
    state = contest.state
    record = contest.day()
    assert all(entry.step.state in ("ranked", "eliminated") for entry in record.entries) and not record.slashes
    assert not any(failed for _, _, failed in record.validators.values())
    _, _, bulletin = contest.journal.epochs[0]
    assert check_day(state, bulletin, SigningDomain(0, bytes(20), bytes(20)), record.data).record == record.data
    last = contest.day()
    assert last.final_ranking and contest.state.finished and contest.opened == [1, 2]
    assert {entry.payload for entry in last.entries}.isdisjoint({entry.payload for entry in record.entries})


def test_a_worker_that_is_asked_again_or_rebuilt_says_the_same(contest: PlainContest) -> None:
    """Each phase's answer, of the same worker and of one without a memory that takes up the running day."""
    first: dict[tuple[str, tuple[object, ...]], PhaseResult] = {}
    state = contest.state

    def keep(phase: str, node: int, result: PhaseResult) -> PhaseResult:
        method, args = contest.nodes.asked[-1]
        assert method == phase
        first[method, args] = result
        return result

    contest.nodes.meddle = keep
    task = contest.task
    contest.loop.propose(task)
    asked = [call for call in contest.nodes.asked if call[0] not in ("enrol", "begin")]
    for worker in (contest.workers[0], ContestWorker(contest.specs[0], 0)):
        if worker is not contest.workers[0]:
            worker.load("localhost", 0, 1)
            worker.begin(task)
        for method, args in asked:
            again = getattr(worker, method)(*args)
            assert again.messages == first[method, args].messages, method
        assert not [event for event in worker._hosting.take_events() if event[0] == "repeated"]
    assert state is contest.state


def test_hostile_bytes_are_refused_and_their_node_is_slashed(contest: PlainContest) -> None:
    """A node commits, past its host, to what is no adapter; another to what nobody can fetch."""
    state, salt = contest.state, bytes(range(32))
    malformed, missing = contest.store.put(b"\x80\x02cos\nsystem\n"), sha256(b"nowhere")
    payloads = {NODE: malformed, NODE + 1: missing}

    def replaced(phase: str, node: int, result: PhaseResult) -> PhaseResult:
        if phase not in ("submit", "publish"):
            return result
        messages: list[SignedMessage] = []
        for signed in result.messages:
            member = contest.rules.verifier(contest.ledger.domain).open(signed, state).member
            if member not in payloads:
                messages.append(signed)
                continue
            commitment = state.scope.payload_commitment(state.epoch, member, payloads[member], salt)
            body = {
                "base_model": to_hex(state.terms.base_model),
                "payload": to_hex(payloads[member]),
                "salt": to_hex(salt),
            }
            kind = ContestKind.COMMITMENT if phase == "submit" else ContestKind.MANIFEST
            said = {"commitment": to_hex(commitment)} if phase == "submit" else body
            messages.append(contest.signed(kind, member, said))
        return replace(result, messages=tuple(messages))

    contest.nodes.meddle = replaced
    record = contest.day()
    assert entry_of(record, NODE).step.reason == "malformed"
    assert entry_of(record, NODE + 1).step.reason == "unavailable"
    assert [(slash.member, slash.reason) for slash in record.slashes] == [(NODE, "malformed")]
    assert len(record.ranking) == 5


def test_what_nobody_signed_is_dropped_and_told(contest: PlainContest) -> None:
    def forged(phase: str, node: int, result: PhaseResult) -> PhaseResult:
        if phase != "gate":
            return result
        signature = result.messages[0].signature
        noise = (SignedMessage(b"not json", bytes(65)), SignedMessage(result.messages[1].data, signature))
        return replace(result, messages=(*result.messages, *noise))

    contest.nodes.meddle = forged
    assert len(contest.day().ranking) == 7
    dropped = [str(fields["reason"]) for kind, fields in contest.told.events if kind == "message_dropped"]
    assert len(dropped) == 2 and any("did not sign this gate" in reason for reason in dropped)


def test_nobody_signs_a_record_that_leaves_its_ballot_out_or_says_something_else(contest: PlainContest) -> None:
    record, bulletin = contest.loop.propose(contest.task)
    verifier = contest.rules.verifier(contest.ledger.domain)
    opened = {signed: verifier.open(signed, contest.state) for signed in bulletin}
    victim = record.results[0].seats.voters[0]
    without = tuple(
        signed for signed, one in opened.items() if (one.kind, one.member) != (ContestKind.RUNG_1_BALLOT, victim)
    )
    other = contest.rules.derive(contest.state, verifier.inbox(without, contest.state))
    [signing] = [contest.workers[0].sign(other.data, without)]
    why = {
        int(str(fields["member"])): str(fields["why"]) for kind, fields in signing.events if kind == "refused_to_sign"
    }
    assert victim not in signing.signatures and "own rung_1_ballot" in why[victim]
    changed = contest.workers[0].sign(record.data.replace(b'"held":', b'"held": '), bulletin)
    assert not changed.signatures
    assert set(contest.workers[0].sign(record.data, bulletin).signatures) == set(contest.state.roles.voters) - set(
        signing.signatures
    )


def test_a_record_without_a_quorum_ends_the_run(contest: PlainContest) -> None:
    contest.nodes.meddle = lambda phase, node, result: replace(result, signatures={}) if phase == "sign" else result
    with pytest.raises(ProtocolError, match=r"epoch 1: 0 of 9 voters signed the report, 7 seats are needed"):
        contest.day()


def test_each_adapter_is_measured_on_each_row_once(contest: PlainContest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all validators of a node group; and losses of a rung's rows are kept for the next one."""
    scorer = contest.workers[0]._bench._scorer
    measured: list[int] = []
    losses = scorer.losses

    def counting(adapters, rows, *rest):  # type: ignore[no-untyped-def]
        measured.append(len(adapters) * len(rows))
        return losses(adapters, rows, *rest)

    monkeypatch.setattr(scorer, "losses", counting)
    record = contest.day()
    cells = {
        (payload, place)
        for result in record.results
        for payload in result.rung.contenders
        for place in result.rung.places
    }
    assert sum(measured) == len(cells)
