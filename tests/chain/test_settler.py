"""An epoch is settled exactly once, whatever goes wrong between the relayer and the chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.chain import transactions
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.client import ChainClient
from flock_ray.chain.eip712 import report_hash
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.outbox import Attempt, Intent, Outbox, State, intent_id
from flock_ray.chain.transactions import max_fee_of, settle, settle_call, settle_gas
from flock_ray.chain.values import TxContext
from flock_ray.errors import ChainError
from flock_ray.protocol.hashing import keccak
from tests.chain.world import RUN_SEED, TOKEN, World, spec
from tests.waiting import PATIENCE

ALL = 0b1111
RELAYER = run_signer(RUN_SEED, "relayer")


@pytest.fixture
def running(world: World) -> World:
    """A task in epoch 1, and a relayer with the client's key."""
    world.create()
    world.earned = {member.address: TOKEN for member in world.members}
    return world


def reopened(run_dir: Path) -> Outbox:
    """The outbox as another process would find it."""
    return Outbox(run_dir / "chain" / "outbox.sqlite")


def intent_of(world: World, report: Report) -> bytes:
    return intent_id(world.domain.chain_id, world.domain.contract, report_hash(report))


def signed(world: World, report: Report, **changes: int) -> Attempt:
    context = replace(world.client.context(RELAYER.address), **changes)  # type: ignore[arg-type]
    raw = settle(RELAYER, context, report, ALL, world.sign(report, ALL))
    return Attempt(context.nonce, keccak(raw), raw)


def journal(outbox: Outbox, world: World, report: Report, attempt: Attempt) -> None:
    """Journal an attempt as a process that died before it sent it."""
    name, data = intent_of(world, report), settle_call(report, ALL, world.sign(report, ALL))
    digest, gas = report_hash(report), settle_gas(report, ALL)
    outbox.plan(Intent(name, world.domain.contract, report.task, report.epoch, digest, data, gas))
    outbox.sign(name, attempt)


def test_a_planned_transaction_is_the_one_sent(running: World, tmp_path: Path) -> None:
    report, _ = running.report()
    planned = signed(running, report, max_priority_fee_per_gas=5)
    outbox = reopened(tmp_path)
    journal(outbox, running, report, planned)
    assert running.settle(report).hash == planned.hash
    assert outbox.attempts(intent_of(running, report)) == [planned]
    assert outbox.state(intent_of(running, report)) is State.MINED
    outbox.close()


def test_a_transaction_mined_unnoticed_is_found(running: World, tmp_path: Path) -> None:
    report, _ = running.report()
    sent = signed(running, report)
    (receipt,) = running.client.broadcast([sent.raw], 1)
    assert running.settle(report) == receipt  # by its log: the outbox knows nothing of it
    outbox = reopened(tmp_path)
    assert outbox.attempts(intent_of(running, report)) == []
    outbox.close()
    assert running.client.context(RELAYER.address).nonce == 1


def test_a_replayed_settlement_has_one_effect(running: World) -> None:
    report, _ = running.report(slashes=[ReportedSlash(0, 100 * TOKEN)])
    receipt = running.settle(report)
    view = running.client.task_view(running.task)
    with pytest.raises(ChainError, match=r"AlreadySettled\(epoch=1, reportHash=0x"):
        running.client.broadcast([signed(running, report).raw], 1)
    assert running.settle(report) == receipt
    assert running.client.task_view(running.task) == view


def test_a_refused_report_costs_nothing(running: World, tmp_path: Path) -> None:
    report, _ = running.report()
    signatures = running.sign(report, ALL)
    forged = bytes([signatures[0] ^ 1]) + signatures[1:]
    refusals = [
        (report, 0b0011, signatures[:128], r"QuorumMissing\(required=3, got=2\)"),
        (report, ALL, forged, r"InvalidSignature\(index=0"),
        (report, ALL, signatures[64:], "WrongSignatureLength"),
        (report, ALL + 16, signatures, "UnknownSeat"),
        (replace(report, epoch=2), ALL, signatures, r"WrongEpoch\(expected=1, got=2\)"),
        (replace(report, seed=keccak(b"x")), ALL, signatures, "WrongSeed"),
        (replace(report, rewards_total=1), ALL, signatures, "InvalidSignature"),
        (replace(report, slashes=(ReportedSlash(0, 1),) * 17), ALL, signatures, "TooManySlashes"),
    ]
    for refused, seats, some, reason in refusals:
        with pytest.raises(ChainError, match=f"the settlement of epoch . reverted: {reason}"):
            running.client.settle(refused, seats, some)
    greedy = replace(report, rewards_total=501 * TOKEN)
    with pytest.raises(ChainError, match=r"OverBudget\(budget=500000000000000000000, requested=501"):
        running.client.settle(greedy, ALL, running.sign(greedy, ALL))
    assert running.client.context(RELAYER.address).nonce == 0
    running.settle(report)


def test_another_report_for_a_settled_epoch_is_an_error(running: World) -> None:
    report, _ = running.report()
    running.settle(report)
    other = replace(report, record_hash=keccak(b"another record"))
    with pytest.raises(ChainError, match=r"epoch 1 of task 0x[0-9a-f]{64} was settled by another report"):
        running.client.settle(other, ALL, b"")


def test_earlier_epochs_stay_settled(running: World) -> None:
    first, _ = running.report()
    receipt = running.settle(first)
    second, _ = running.report()
    running.settle(second)
    assert running.client.settle(first, ALL, b"") == receipt


def test_a_stolen_nonce_makes_a_new_transaction(running: World, tmp_path: Path) -> None:
    report, _ = running.report()
    planned = signed(running, report)
    outbox = reopened(tmp_path)
    journal(outbox, running, report, planned)
    running.do(RELAYER, spend_nonce)
    assert running.settle(report).hash != planned.hash
    assert [attempt.hash == planned.hash for attempt in outbox.attempts(intent_of(running, report))] == [True, False]
    assert running.client.context(RELAYER.address).nonce == 2
    outbox.close()


def spend_nonce(signer: Signer, context: TxContext) -> list[bytes]:
    fields = {
        "type": 2, "chainId": context.chain_id, "nonce": context.nonce, "gas": 21_000, "value": 0, "data": b"",
        "maxFeePerGas": context.max_fee_per_gas, "maxPriorityFeePerGas": 1, "to": signer.address,
    }  # fmt: skip
    return [signer.sign_transaction(fields)]


def test_a_transaction_that_failed_is_not_sent_again(running: World, tmp_path: Path) -> None:
    report, _ = running.report()
    fields = {
        "type": 2, "chainId": running.domain.chain_id, "nonce": 0, "gas": 90_000, "value": 0,
        "maxFeePerGas": 3 * 10**9, "maxPriorityFeePerGas": 1, "to": running.domain.contract,
        "data": transactions.settle_call(report, ALL, running.sign(report, ALL)),
    }  # fmt: skip
    starved = RELAYER.sign_transaction(fields)
    outbox = reopened(tmp_path)
    journal(outbox, running, report, Attempt(0, keccak(starved), starved))
    assert running.settle(report).hash != keccak(starved)
    outbox.close()


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A running task on a chain that mines when told to."""
    names = ["creator", "relayer", *(f"member-{i}" for i in range(5))]
    alloc = {run_signer(RUN_SEED, name).address: GAS_MONEY for name in names}
    process = AnvilProcess(Genesis("anvil", 4_711, GENESIS_TIME, alloc))
    monkeypatch.setenv("FLOCK_RAY_RELAYER_KEY", RELAYER._key.to_hex())
    world = World(spec("rpc", url=process.url), tmp_path)
    world.deploy()
    world.create()
    world.earned = {member.address: TOKEN for member in world.members}
    world.client._node._request("evm_setAutomine", [False])
    world.client._settler._timeout = 1.0
    yield world
    world.client.close()
    process.close()


@pytest.mark.anvil
def test_a_slow_chain_gets_the_same_transaction_again(slow: World, tmp_path: Path) -> None:
    report, _ = slow.report()
    signatures = slow.sign(report, ALL)
    for _ in range(2):
        with pytest.raises(ChainError, match=r"is not mined after 1 s \(chain\.confirmation_timeout\)"):
            slow.client.settle(report, ALL, signatures)
    outbox = reopened(tmp_path)
    (attempt,) = outbox.attempts(intent_of(slow, report))
    assert outbox.state(intent_of(slow, report)) is State.SENT
    slow.client._node._request("evm_mine", [])
    slow.client._settler._timeout = PATIENCE
    assert slow.settle(report).hash == attempt.hash
    outbox.close()


@pytest.mark.anvil
def test_a_lost_transaction_is_sent_again_after_a_restart(slow: World, tmp_path: Path) -> None:
    report, _ = slow.report()
    signatures = slow.sign(report, ALL)
    with pytest.raises(ChainError, match="is not mined"):
        slow.client.settle(report, ALL, signatures)
    outbox = reopened(tmp_path)
    (attempt,) = outbox.attempts(intent_of(slow, report))
    outbox.close()
    node = slow.client._node
    node._request("anvil_dropTransaction", ["0x" + attempt.hash.hex()])
    assert not node.has(attempt.hash)
    node._request("evm_setAutomine", [True])
    info, old = slow.client.info(), slow.client
    contracts = {"token": info.token, "task": info.task, "settlement": info.settlement}
    slow.client = ChainClient(replace(slow.spec, **contracts), str(tmp_path))
    assert slow.settle(report).hash == attempt.hash
    old.close()


@pytest.mark.anvil
def test_a_transaction_that_became_too_cheap_is_outbid(slow: World, tmp_path: Path) -> None:
    report, _ = slow.report()
    signatures = slow.sign(report, ALL)
    node = slow.client._node
    with pytest.raises(ChainError, match="is not mined"):
        slow.client.settle(report, ALL, signatures)
    node._request("anvil_setNextBlockBaseFeePerGas", [hex(50 * 10**9)])
    node._request("evm_mine", [])
    with pytest.raises(ChainError, match="is not mined"):
        slow.client.settle(report, ALL, signatures)
    outbox = reopened(tmp_path)
    cheap, dear = outbox.attempts(intent_of(slow, report))
    assert max_fee_of(dear.raw) >= 1.125 * max_fee_of(cheap.raw)
    node._request("evm_mine", [])
    slow.client._settler._timeout = PATIENCE
    assert slow.settle(report).hash == dear.hash
    assert slow.client.context(RELAYER.address).nonce == 1
    outbox.close()
