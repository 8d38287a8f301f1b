"""The relayer's journal: what it is about to send, on disk before it is sent.

An intent is named after its effect (chain, contract, report), never after a nonce, so that requesting a settlement
twice makes one intent. It holds its call, so that the journal alone is enough to resume. Each signed attempt at it is
kept: a chain that lost a transaction gets the same bytes again.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from flock_ray.protocol.hashing import tagged

_SCHEMA = """
CREATE TABLE IF NOT EXISTS intents (
    id BLOB PRIMARY KEY,
    contract TEXT NOT NULL,
    task BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    report BLOB NOT NULL,
    data BLOB NOT NULL,
    gas INTEGER NOT NULL,
    state TEXT NOT NULL,
    hash BLOB,
    block INTEGER,
    block_hash BLOB
);
CREATE TABLE IF NOT EXISTS attempts (
    number INTEGER PRIMARY KEY,
    intent BLOB NOT NULL REFERENCES intents (id),
    nonce INTEGER NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    raw BLOB NOT NULL,
    outcome TEXT NOT NULL DEFAULT ''
);
"""
_INTENT = "id, contract, task, epoch, report, data, gas"


class State(Enum):
    """Progress of an intent: planned, signed, sent to a node, in a block, in a safe block, in a final block."""

    PLANNED = "planned"
    SIGNED = "signed"
    SENT = "sent"
    MINED = "mined"
    SAFE = "safe"
    FINAL = "finalized"


_IN_A_BLOCK = (State.MINED.value, State.SAFE.value, State.FINAL.value)


@dataclass(frozen=True)
class Intent:
    """A call that must take effect exactly once.

    Attributes:
        id: see `intent_id`.
        contract: address of EpochSettlement.
        task: id of the task, 32 bytes.
        epoch: the epoch that it settles.
        report: hash of the report.
        data: of the call.
        gas: limit of the call.
    """

    id: bytes
    contract: str
    task: bytes
    epoch: int
    report: bytes
    data: bytes
    gas: int


@dataclass(frozen=True)
class Attempt:
    """One signed transaction.

    Attributes:
        nonce: of the account; replacements have the same.
        hash: its hash.
        raw: its bytes.
    """

    nonce: int
    hash: bytes
    raw: bytes


@dataclass(frozen=True)
class Inclusion:
    """Where an intent took effect.

    Attributes:
        hash: of the transaction.
        block: number.
        block_hash: of that block.
    """

    hash: bytes
    block: int
    block_hash: bytes


def intent_id(chain_id: int, contract: str, report_hash: bytes) -> bytes:
    """Name of the intent to settle a report (32 bytes)."""
    return tagged("flock_ray/intent/1", chain_id, int(contract, 16), report_hash)


class Outbox:
    """Intents and their attempts in SQLite; every change is on disk when a method returns."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal at `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def plan(self, intent: Intent) -> None:
        """Record an intent; if it exists and is not in a block yet, its data and gas are replaced."""
        self._db.execute(
            f"INSERT INTO intents ({_INTENT}, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET data = excluded.data, gas = excluded.gas WHERE state NOT IN (?, ?, ?)",
            (intent.id, intent.contract, intent.task, intent.epoch, intent.report, intent.data, intent.gas,
             State.PLANNED.value, *_IN_A_BLOCK),
        )  # fmt: skip

    def sign(self, intent: bytes, attempt: Attempt) -> None:
        """Record a signed transaction before it is sent."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT INTO attempts (intent, nonce, hash, raw) VALUES (?, ?, ?, ?)",
                (intent, attempt.nonce, attempt.hash, attempt.raw),
            )
            self._db.execute("UPDATE intents SET state = ? WHERE id = ?", (State.SIGNED.value, intent))

    def sent(self, intent: bytes) -> None:
        """Record that the last attempt was sent to a node."""
        self._db.execute("UPDATE intents SET state = ? WHERE id = ?", (State.SENT.value, intent))

    def mined(self, intent: bytes, inclusion: Inclusion, state: State = State.MINED) -> None:
        """Record where the intent took effect, and how final that is."""
        self._db.execute(
            "UPDATE intents SET state = ?, hash = ?, block = ?, block_hash = ? WHERE id = ?",
            (state.value, inclusion.hash, inclusion.block, inclusion.block_hash, intent),
        )

    def give_up(self, intent: bytes, nonce: int, outcome: str) -> None:
        """Record that no attempt with this nonce can succeed any more: `reverted`, or `lost` to another transaction."""
        self._db.execute("UPDATE attempts SET outcome = ? WHERE intent = ? AND nonce = ?", (outcome, intent, nonce))

    def state(self, intent: bytes) -> State | None:
        """State of an intent; None if it was never planned."""
        row = self._db.execute("SELECT state FROM intents WHERE id = ?", (intent,)).fetchone()
        return State(row[0]) if row else None

    def is_in_a_block(self, intent: bytes) -> bool:
        """Whether the intent took effect, and nothing was sent for it since."""
        state = self.state(intent)
        return state is not None and state.value in _IN_A_BLOCK

    def inclusion(self, intent: bytes) -> Inclusion | None:
        """Where the intent took effect, as last seen; None before."""
        row = self._db.execute("SELECT hash, block, block_hash FROM intents WHERE id = ?", (intent,)).fetchone()
        return Inclusion(*row) if row and row[0] is not None else None

    def attempts(self, intent: bytes, pending: bool = False) -> list[Attempt]:
        """Attempts at an intent, oldest first; with `pending` only those that can still succeed."""
        query = "SELECT nonce, hash, raw FROM attempts WHERE intent = ? AND (outcome = '' OR NOT ?) ORDER BY number"
        return [Attempt(*row) for row in self._db.execute(query, (intent, pending))]

    def with_nonce(self, nonce: int) -> list[Attempt]:
        """Attempts at any intent with this nonce, oldest first."""
        rows = self._db.execute("SELECT nonce, hash, raw FROM attempts WHERE nonce = ? ORDER BY number", (nonce,))
        return [Attempt(*row) for row in rows]

    def holder(self, nonce: int) -> Intent | None:
        """The intent that used this nonce last; None when none did."""
        query = f"SELECT {_INTENT} FROM intents WHERE id = (SELECT intent FROM attempts WHERE nonce = ?"
        row = self._db.execute(query + " ORDER BY number DESC)", (nonce,)).fetchone()
        return Intent(*row) if row else None

    def next_nonce(self) -> int:
        """One more than the highest nonce that was ever signed; 0 before."""
        return int(self._db.execute("SELECT coalesce(max(nonce), -1) + 1 FROM attempts").fetchone()[0])

    def signed(self, contract: str, task: bytes, epoch: int) -> Intent | None:
        """The intent that was last signed to settle an epoch; None when none was."""
        query = f"SELECT {_INTENT} FROM intents WHERE contract = ? AND task = ? AND epoch = ? AND state != ?"
        rows = self._db.execute(query + " ORDER BY rowid DESC", (contract, task, epoch, State.PLANNED.value))
        row = rows.fetchone()
        return Intent(*row) if row else None

    def unfinished(self) -> list[Intent]:
        """Signed intents that were not seen to take effect, unless a later one was signed for the same epoch."""
        signed, sent, planned = State.SIGNED.value, State.SENT.value, State.PLANNED.value
        rows = self._db.execute(
            f"SELECT {_INTENT} FROM intents AS intent WHERE state IN (?, ?) AND NOT EXISTS ("
            "SELECT 1 FROM intents AS later WHERE later.rowid > intent.rowid AND later.state != ? AND"
            " (later.contract, later.task, later.epoch) = (intent.contract, intent.task, intent.epoch)) ORDER BY epoch",
            (signed, sent, planned),
        )
        return [Intent(*row) for row in rows.fetchall()]

    def in_a_block(self, below: State | None = None) -> list[Intent]:
        """Intents that took effect, in the order of epochs; with `below` only those that are less final than it."""
        states = _IN_A_BLOCK[: None if below is None else _IN_A_BLOCK.index(below.value)]
        marks = ", ".join("?" * len(states))
        rows = self._db.execute(f"SELECT {_INTENT} FROM intents WHERE state IN ({marks}) ORDER BY epoch", states)
        return [Intent(*row) for row in rows.fetchall()]

    def close(self) -> None:
        """Close the journal."""
        self._db.close()
