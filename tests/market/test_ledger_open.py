"""What a ledger is opened from: nothing that is another program's, another version's, or no database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select, text

from flock_ray.errors import LedgerError
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_schema import IS_OPEN, IS_WAITING, REQUESTS
from tests.market.ledgers import asked, new_key, opened, request_id, reserved, sign, used
from tests.market.postgres import Postgres


def change(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_a_ledger_is_made_once_and_opened_again(ledger_url: str) -> None:
    with pytest.raises(LedgerError, match="no ledger"):
        Ledger.open(ledger_url, create=False)
    with opened(ledger_url) as ledger:
        key = new_key(ledger)
    for create in (False, True):
        with Ledger.open(ledger_url, create=create) as ledger:
            assert ledger.keys.find() == [key]


def test_another_programs_database_is_refused_and_stays_as_it_is(ledger_url: str) -> None:
    change(ledger_url, "CREATE TABLE keys (id INTEGER)", "CREATE TABLE songs (id INTEGER)")
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"holds tables of another program \(keys, songs\): name an empty one"):
            Ledger.open(ledger_url)
    if ledger_url.startswith("sqlite"):
        with sqlite3.connect(ledger_url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE schema_version SET version = 3", "has schema version 3; this flock-ray knows 2"),
        ("INSERT INTO schema_version VALUES (7)", "has schema version 2, 7; this flock-ray knows 2"),
        ("DELETE FROM schema_version", "has schema version none; this flock-ray knows 2"),
        ("DROP TABLE batches", "is no whole ledger: it has no table batches"),
    ],
)
def test_another_version_is_refused(ledger_url: str, statement: str, told: str) -> None:
    Ledger.open(ledger_url).close()
    change(ledger_url, statement)
    with pytest.raises(LedgerError, match=told):
        Ledger.open(ledger_url)


def test_a_ledger_of_the_first_version_is_brought_up_to_date(ledger_url: str) -> None:
    with opened(ledger_url) as ledger:
        key = new_key(ledger)
        reserved(ledger, key, asked(1))
        settled = ledger.settle(request_id(1), used(), sign)
    change(ledger_url, "ALTER TABLE requests DROP COLUMN begun", "UPDATE schema_version SET version = 1")
    for _ in range(2):
        with opened(ledger_url) as ledger:
            assert ledger.row(request_id(1)) == settled
    with opened(ledger_url) as ledger:
        reserved(ledger, key, asked(2))
        ledger.progress(request_id(2), 10, 16, bytes(32))
        row = ledger.row(request_id(2))
        assert row is not None and (row.begun, row.delivered) == (10, 16)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "no sqlite:///FILE"),
        ("ledger.db", "no sqlite:///FILE"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://host/ledger.db", "names no file"),
        ("mysql://me:secret@host/ledger", "a ledger is sqlite:///FILE or .*, not mysql"),
        ("postgresql+asyncpg://me:secret@host/ledger", "not postgresql.asyncpg"),
        ("sqlite+aiosqlite:///ledger.db", "not sqlite.aiosqlite"),
    ],
)
def test_a_wrong_url_is_one_line_without_its_password(url: str, told: str) -> None:
    with pytest.raises(LedgerError, match=told) as refused:
        Ledger.open(url)
    assert "\n" not in str(refused.value) and "secret" not in str(refused.value)


def test_what_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    file, folder, under = tmp_path / "text", tmp_path / "folder", tmp_path / "text" / "ledger.db"
    file.write_text("This is a text, and longer than the header of a database.\n" * 20)
    folder.mkdir()
    for path, told in ((file, "file is not a database"), (folder, "unable to open"), (under, "cannot be made")):
        with pytest.raises(LedgerError, match=told) as refused:
            Ledger.open(f"sqlite:///{path}")
        assert "\n" not in str(refused.value)


def test_a_server_that_is_away_is_told_in_one_line(tmp_path: Path, postgres: Postgres) -> None:
    with pytest.raises(LedgerError, match=r"ledger postgresql\+psycopg://me:\*\*\*@") as refused:
        Ledger.open(f"postgresql+psycopg://me:secret@/ledger?host={tmp_path}")
    assert "\n" not in str(refused.value) and "secret" not in str(refused.value)
    with pytest.raises(LedgerError, match='database "nothing" does not exist'):
        Ledger.open(postgres.url("nothing"))


def test_open_and_waiting_requests_are_found_by_their_index(tmp_path: Path) -> None:
    """SQLite takes a partial index only for the words that it was made with."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    Ledger.open(url).close()
    engine = create_engine(url)
    waiting = select(REQUESTS.c.request).where(IS_WAITING, REQUESTS.c.price_book == bytes(32))
    running = select(REQUESTS.c.request).where(IS_OPEN, REQUESTS.c.account == bytes(20))
    batched = select(REQUESTS.c.request).where(REQUESTS.c.batch == 1, REQUESTS.c.price_book == bytes(32))
    indices = {"waiting_requests": waiting, "open_requests": running, "batched_requests": batched}
    for index, query in indices.items():
        words = query.compile(engine)
        with engine.begin() as connection:
            given = (b"",) * str(words).count("?")
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {words}", given).all()
        assert [index in step[-1] for step in plan] == [True], plan
    engine.dispose()
