"""Blocks that are taken back, blocks that stay, fees that rise, and a key that stays secret."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.chain import fee_bumper, settler
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.client import ChainClient
from flock_ray.chain.eip712 import report_hash
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import run_signer
from flock_ray.chain.outbox import Outbox, State, intent_id
from flock_ray.chain.transactions import max_fee_of
from flock_ray.errors import ChainError
from tests.chain.world import RUN_SEED, TOKEN, World, spec

pytestmark = pytest.mark.anvil
ALL = 0b1111
RELAYER = run_signer(RUN_SEED, "relayer")


@pytest.fixture
def mined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A running task on a chain that others own."""
    names = ["creator", "relayer", *(f"member-{i}" for i in range(5))]
    alloc = {run_signer(RUN_SEED, name).address: GAS_MONEY for name in names}
    process = AnvilProcess(Genesis("anvil", 4_711, GENESIS_TIME, alloc))
    monkeypatch.setenv("FLOCK_RAY_RELAYER_KEY", RELAYER._key.to_hex())
    world = World(spec("rpc", url=process.url), tmp_path)
    world.deploy()
    world.create()
    world.earned = {member.address: TOKEN for member in world.members}
    yield world
    world.client.close()
    process.close()


def ask(world: World, method: str, *params: Any) -> Any:
    return world.client._node._request(method, list(params))


def reopened(world: World, folder: Path, **changes: Any) -> ChainClient:
    info = world.client.info()
    contracts = {"token": info.token, "task": info.task, "settlement": info.settlement}
    return ChainClient(replace(world.spec, **contracts, **changes), str(folder))


def state(folder: Path, world: World, report: Report) -> State | None:
    outbox = Outbox(folder / "chain" / "outbox.sqlite")
    stored = outbox.state(intent_id(world.domain.chain_id, world.domain.contract, report_hash(report)))
    outbox.close()
    return stored


def test_a_settlement_that_was_taken_back_is_sent_again_as_it_was(mined: World, tmp_path: Path) -> None:
    first, _ = mined.report()
    receipt = mined.settle(first)
    second, _ = mined.report()
    signatures = mined.sign(second, ALL)
    ask(mined, "anvil_reorg", 1, [])
    assert mined.client.task_view(mined.task).last_settled == 0
    mined.client.settle(second, ALL, signatures)
    assert mined.client.task_view(mined.task).last_settled == 2
    again = mined.client.confirm()
    assert again[1].hash == receipt.hash and again[1].block_hash != receipt.block_hash


def test_a_new_process_needs_the_journal_alone(mined: World, tmp_path: Path) -> None:
    report, _ = mined.report()
    receipt = mined.settle(report)
    mined.client.close()
    ask(mined, "anvil_reorg", 1, [])
    mined.client = reopened(mined, tmp_path)
    assert mined.client.confirm()[1].hash == receipt.hash
    assert mined.client.task_view(mined.task).last_settled == 1


def test_a_new_process_finishes_what_another_was_sending_again(mined: World, tmp_path: Path) -> None:
    """As after a crash between the last send of a run and the look at its block: nobody asks for that epoch again."""
    report, _ = mined.report()
    receipt = mined.settle(report)
    outbox = Outbox(tmp_path / "chain" / "outbox.sqlite")
    outbox.sent(intent_id(mined.domain.chain_id, mined.domain.contract, report_hash(report)))
    outbox.close()
    mined.client.close()
    ask(mined, "anvil_reorg", 1, [])
    mined.client = reopened(mined, tmp_path)
    assert mined.client.confirm()[1].hash == receipt.hash
    assert mined.client.task_view(mined.task).last_settled == 1


def test_what_was_sent_needlessly_is_still_mined(mined: World, tmp_path: Path) -> None:
    """As after a look at a node that lagged."""
    report, _ = mined.report()
    receipt = mined.settle(report)
    outbox = Outbox(tmp_path / "chain" / "outbox.sqlite")
    outbox.sent(intent_id(mined.domain.chain_id, mined.domain.contract, report_hash(report)))
    outbox.close()
    assert mined.client.settle(report, ALL, b"") == receipt
    assert state(tmp_path, mined, report) is State.MINED


@pytest.mark.parametrize(("finality", "blocks"), [("safe", 40), ("finalized", 70)])
def test_finality_is_waited_for(mined: World, tmp_path: Path, finality: str, blocks: int) -> None:
    report, _ = mined.report()
    mined.settle(report)
    mined.client.confirm()
    assert state(tmp_path, mined, report) is State.MINED
    mined.client.close()
    ask(mined, "anvil_mine", hex(blocks))
    mined.client = reopened(mined, tmp_path, finality=finality)
    mined.client.confirm()
    assert state(tmp_path, mined, report) is State(finality)


def test_fees_have_a_limit_and_an_end(mined: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settler, "_LAST_POLL", 0.01)
    report, _ = mined.report()
    signatures = mined.sign(report, ALL)
    ask(mined, "evm_setAutomine", False)
    mined.client.close()
    limit = 4 * 10**9
    mined.client = reopened(mined, tmp_path, max_fee=limit, confirmation_timeout=1.0)
    node = mined.client._node
    cheap = {"fees": lambda: (limit, 10**6), "head": iter(range(0, 10**6, fee_bumper.STUCK_BLOCKS)).__next__}
    for name, value in cheap.items():
        monkeypatch.setattr(node, name, value)
    with pytest.raises(ChainError, match=r"is not mined after 1 s \(chain\.confirmation_timeout\)"):
        mined.client.settle(report, ALL, signatures)
    outbox = Outbox(tmp_path / "chain" / "outbox.sqlite")
    (attempt,) = outbox.attempts(intent_id(mined.domain.chain_id, mined.domain.contract, report_hash(report)))
    outbox.close()
    assert max_fee_of(attempt.raw) == limit
    later, _ = mined.report()
    with pytest.raises(ChainError):  # never skipped
        mined.client.settle(replace(later, epoch=2), ALL, signatures)


def test_replacements_come_to_an_end(mined: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settler, "_LAST_POLL", 0.01)
    monkeypatch.setattr(fee_bumper, "STUCK_BLOCKS", 0)
    report, _ = mined.report()
    signatures = mined.sign(report, ALL)
    ask(mined, "evm_setAutomine", False)
    mined.client._settler._timeout = 6.0
    with pytest.raises(ChainError, match=r"which pays up to \d+ wei a gas, is not mined after 6 s"):
        mined.client.settle(report, ALL, signatures)
    outbox = Outbox(tmp_path / "chain" / "outbox.sqlite")
    attempts = outbox.attempts(intent_id(mined.domain.chain_id, mined.domain.contract, report_hash(report)))
    outbox.close()
    assert len(attempts) == 1 + fee_bumper.MAX_REPLACEMENTS and {attempt.nonce for attempt in attempts} == {0}
    ask(mined, "evm_mine")
    assert mined.client.settle(report, ALL, signatures).hash == attempts[-1].hash


def test_no_key_and_no_credentials_in_what_a_failing_send_leaves(
    mined: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locals in tracebacks, logs at the finest level, pickles of errors, files."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        url = mined.spec.urls[0].replace("http://", "http://user:hunter2@")
        client = reopened(mined, tmp_path, urls=(url,), confirmation_timeout=0.2)
        report, _ = mined.report()
        signatures = mined.sign(report, ALL)
        ask(mined, "evm_setAutomine", False)
        texts = []
        for seats, given in ((ALL, bytes(64)), (ALL, signatures)):
            with pytest.raises(ChainError) as caught:
                client.settle(report, seats, given)
            shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            shown.stack.pop(0)  # this function
            texts += ["".join(shown.format()), repr(pickle.dumps(caught.value))]
        texts.append(repr(vars(client)) + repr(vars(client._settler)))
        client.close()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    text = "\n".join([log.getvalue(), *texts]).lower()
    key = RELAYER._key.secret
    assert "settle" in text
    assert not [form for form in (key.hex(), repr(key)[2:-1].lower(), str(int.from_bytes(key, "big"))) if form in text]
    assert "hunter2" not in text
    files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert files and not any(key in data or key.hex().encode() in data for data in files)
