from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.chain.outbox import Attempt, Inclusion, Intent, Outbox, State, intent_id
from flock_ray.protocol.hashing import keccak

CONTRACT = "0x" + "11" * 20
NAME = intent_id(1, CONTRACT, keccak(b"report"))
INTENT = Intent(NAME, CONTRACT, keccak(b"task"), 2, keccak(b"report"), b"data", 100)
INCLUSION = Inclusion(keccak(b"raw 1"), 7, keccak(b"block"))


def attempt(number: int, nonce: int = 4) -> Attempt:
    return Attempt(nonce, keccak(b"raw %d" % number), b"raw %d" % number)


def test_an_intent_is_named_by_chain_contract_and_report() -> None:
    others = {intent_id(2, CONTRACT, keccak(b"report")), intent_id(1, "0x" + "12" * 20, keccak(b"report"))}
    assert len(others | {NAME, intent_id(1, CONTRACT, keccak(b"another"))}) == 4


def test_attempts_and_states_survive_the_process(tmp_path: Path) -> None:
    attempts = [attempt(i) for i in range(3)]
    outbox = Outbox(tmp_path / "outbox.sqlite")
    assert outbox.state(NAME) is None and outbox.attempts(NAME) == [] and outbox.next_nonce() == 0
    outbox.plan(INTENT)
    assert outbox.state(NAME) is State.PLANNED and outbox.signed(CONTRACT, INTENT.task, 2) is None
    for entry in attempts:
        outbox.sign(NAME, entry)
        assert outbox.state(NAME) is State.SIGNED
        outbox.sent(NAME)
    # No close: as after a kill.
    again = Outbox(tmp_path / "outbox.sqlite")
    assert again.attempts(NAME) == attempts == again.with_nonce(4) and again.next_nonce() == 5
    assert again.state(NAME) is State.SENT and again.inclusion(NAME) is None
    assert again.signed(CONTRACT, INTENT.task, 2) == INTENT
    again.mined(NAME, INCLUSION)
    assert outbox.state(NAME) is State.MINED and outbox.inclusion(NAME) == INCLUSION
    outbox.close()
    again.close()


def test_every_write_reaches_the_disk(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    settings = [outbox._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]  # 2: FULL
    outbox.close()


def test_a_transaction_is_journalled_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.plan(INTENT)
    outbox.sign(NAME, attempt(1))
    outbox.sent(NAME)
    with pytest.raises(sqlite3.IntegrityError):
        outbox.sign(NAME, attempt(1))
    assert outbox.state(NAME) is State.SENT
    outbox.close()


def test_what_is_given_up_no_longer_stands(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.plan(INTENT)
    for entry in (attempt(1, 4), attempt(2, 4), attempt(3, 5)):
        outbox.sign(NAME, entry)
    outbox.give_up(NAME, 4, "lost")
    assert outbox.attempts(NAME, pending=True) == [attempt(3, 5)]
    assert len(outbox.attempts(NAME)) == 3
    assert outbox.holder(4) == INTENT and outbox.holder(6) is None
    outbox.close()


def test_a_call_may_change_until_it_is_in_a_block(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.plan(INTENT)
    better = replace(INTENT, data=b"more signatures")
    outbox.plan(better)
    outbox.sign(NAME, attempt(1))
    assert outbox.signed(CONTRACT, INTENT.task, 2) == better
    for state in (State.MINED, State.SAFE, State.FINAL):
        outbox.mined(NAME, INCLUSION, state)
        outbox.plan(INTENT)
        assert outbox.in_a_block() == [better] and outbox.state(NAME) is state
    assert outbox.in_a_block(below=State.FINAL) == []
    outbox.mined(NAME, INCLUSION, State.SAFE)
    assert (outbox.in_a_block(below=State.FINAL), outbox.in_a_block(below=State.SAFE)) == ([better], [])
    outbox.close()


def test_what_is_unfinished(tmp_path: Path) -> None:
    """The last signed report of each epoch that is in no block, in the order of epochs."""
    outbox = Outbox(tmp_path / "outbox.sqlite")
    names = ("late", "old", "new", "planned", "mined")
    late, old, new, planned, mined = (
        replace(INTENT, id=keccak(name.encode()), report=keccak(name.encode()), epoch=epoch)
        for name, epoch in zip(names, (3, 2, 2, 2, 1), strict=True)
    )
    for number, intent in enumerate((late, old, new, planned, mined)):
        outbox.plan(intent)
        if intent is not planned:
            outbox.sign(intent.id, attempt(number, number))
    outbox.sent(late.id)
    outbox.mined(mined.id, INCLUSION)
    assert outbox.unfinished() == [new, late]
    outbox.mined(new.id, INCLUSION)
    assert outbox.unfinished() == [late]
    outbox.close()
