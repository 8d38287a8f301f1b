"""Two implementations of one protocol: whatever the members do, both come to the same bytes."""

from __future__ import annotations

import inspect
from random import Random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.chain import merkle
from flock_ray.chain.eip712 import Domain, report_digest, report_hash
from flock_ray.cluster.attestation import report_of
from flock_ray.errors import VerificationError
from flock_ray.protocol import epoch as protocol
from flock_ray.protocol import flock, inbox, marginal1, mechanism, mechanisms, roles, roster, seed, verdict
from flock_ray.protocol.inbox import Inbox
from flock_ray.protocol.mechanisms import MECHANISMS
from flock_ray.protocol.record import Record
from flock_ray.protocol.state import TaskState
from flock_ray.verify.epoch import Replay, replay, skip
from flock_ray.verify.membership import changed, slots_of
from flock_ray.verify.report import SigningDomain
from tests.protocol.players import Play, new_task
from tests.verify.epochs import come_and_go, mischief, tasks

RELAYER = "0x" + "11" * 20


def agree(state: TaskState, theirs: Record, ours: Replay) -> TaskState:
    """Compare everything that is signed; returns the state that both go on from."""
    assert ours.record == theirs.data
    domain = Domain(state.scope.chain_id, "0x" + state.scope.contract.hex(), RELAYER)
    signing_domain = SigningDomain(state.scope.chain_id, state.scope.contract, bytes.fromhex(RELAYER[2:]))
    report = ours.report(signing_domain, bytes.fromhex(RELAYER[2:]))
    expected = report_of(theirs, domain, RELAYER)
    assert report.hash == report_hash(expected)
    assert report.rewards_root == expected.rewards_root
    assert signing_domain.report_digest(report) == report_digest(domain, expected)
    following = ours.following(report.hash)
    assert following == protocol.advance(state, theirs, report.hash)
    return following


@settings(max_examples=60)
@given(tasks(), st.randoms(use_true_random=False))
def test_both_implementations_give_the_same_records_and_states(state: TaskState, random: Random) -> None:
    while not state.finished:
        changes, joined = come_and_go(random, state)
        assert changed(state, changes, joined) == state.changed(changes, joined)
        state = state.changed(changes, joined)
        assert len(slots_of(state).slots) == len(state.slot_owners)
        if state.finished:
            return
        if random.random() < 0.1:
            assert skip(state) == protocol.skip(state)
            state = skip(state)
            continue
        sent = mischief(random, state)
        state = agree(state, protocol.derive(state, Inbox(sent)), replay(state, sent))


@pytest.mark.parametrize("gain", [50_000, -50_000])
@pytest.mark.parametrize("name", sorted(MECHANISMS))
def test_an_update_of_weight_0_shares_neither_pay_nor_fate(name: str, gain: int) -> None:
    state = new_task(mechanism=name)
    left_out, *others = sorted(set(state.roles.proposers))
    play = Play(weightless={left_out}, candidate_gain=lambda voter: gain)
    record = play.record(state)
    assert record.candidate.weights == ((left_out, 0), *((member, 1) for member in others))
    assert left_out not in {*record.rewards, *(slash.member for slash in record.slashes)}
    fate = {slash.member for slash in record.slashes} if name == "flock" and gain < 0 else set(record.rewards)
    assert (set(others) <= fate) == (record.accepted or name == "flock")
    agree(state, record, replay(state, play.messages(state)))


def played(rounds: int = 30) -> list[bool]:
    """Whether both agree, epoch by epoch, on tasks that do not change from call to call."""
    agreed = []
    for number in range(rounds):
        random = Random(number)
        state = new_task(
            24, mechanism=sorted(MECHANISMS)[number % 3], slash_fraction_bp=6_000, seed=number, num_epochs=9
        )
        sent = mischief(random, state)
        agreed.append(replay(state, sent).record == protocol.derive(state, Inbox(sent)).data)
    return agreed


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        ("protocol.epoch.MAX_SLASHES", 3),
        ("protocol.epoch.due_epoch", lambda last_settled, max_unsettled: last_settled + max_unsettled + 2),
        ("protocol.epoch.reveals_digest", lambda reveals: bytes(32)),
        ("protocol.verdict.band", lambda errors, terms: terms.band_floor + 1),
        ("protocol.verdict.quantile", lambda values, basis_points: max(values)),
        ("protocol.marginal1.share_out", lambda amount, weights: dict.fromkeys(weights, amount // 10)),
        ("verify.epoch.digest_of_reveals", lambda reveals: bytes(32)),
        ("verify.message_set.leads_to", lambda tip, preimage, epoch: True),
        ("verify.scores.consensus_of", lambda scores, seats, terms: None),
        ("verify.payment_marginal.shares", lambda amount, weights: dict.fromkeys(weights, amount // 10)),
        ("verify.accounting.RELAYER_PART", 11),
        ("verify.membership._FIRST_UNKNOWN", 2),
    ],
)
def test_a_mistake_of_either_side_shows(monkeypatch: pytest.MonkeyPatch, where: str, wrong: object) -> None:
    monkeypatch.setattr(f"flock_ray.{where}", wrong)
    try:
        agreed = played()
    except (AttributeError, AssertionError):
        return
    assert not all(agreed)


def test_without_a_mistake_nothing_shows() -> None:
    assert all(played())


def refuse(*_: object, **__: object) -> object:
    raise AssertionError("the verifier asks the code that it checks")


def test_the_verifier_asks_nothing_of_the_code_that_it_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every function of the first implementation broken, the second still comes to the first one's bytes."""
    states = [new_task(mechanism=name) for name in sorted(MECHANISMS)]
    sent = [mischief(Random(5), state) for state in states]
    expected = [protocol.derive(state, Inbox(messages)).data for state, messages in zip(states, sent, strict=True)]
    modules: list[ModuleType] = [
        seed, roles, roster, verdict, mechanism, mechanisms, marginal1, flock, protocol, inbox, merkle
    ]  # fmt: skip
    for module in modules:
        for name, _ in inspect.getmembers(module, inspect.isfunction):
            monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(roster.Roster, "settled", refuse)
    monkeypatch.setattr("flock_ray.protocol.state.roles", refuse)
    monkeypatch.setattr(Inbox, "__init__", refuse)
    replays = [replay(state, messages) for state, messages in zip(states, sent, strict=True)]
    assert [replayed.record for replayed in replays] == expected
    assert all(replayed.report(SigningDomain(1, bytes(20), bytes(20)), bytes(20)).rewards_root for replayed in replays)


def test_a_task_with_too_few_slots_has_no_epoch() -> None:
    with pytest.raises(VerificationError, match="4 slots are too few for 4 voters and a proposer"):
        replay(new_task(4), [])


def test_an_honest_epoch_of_eight_members_takes_milliseconds() -> None:
    """Not a limit, a guard against the quadratic: it takes about 4."""
    import time

    state = new_task()
    sent = Play().messages(state)
    began = time.process_time()
    for _ in range(10):
        replay(state, sent)
    assert (time.process_time() - began) / 10 < 0.1
