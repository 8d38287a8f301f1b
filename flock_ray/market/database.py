"""The ledger's database: opened only if it is one, and changed in transactions that wait for each other.

SQLite (write-ahead log, one writer at a time) on one machine, PostgreSQL (locks of rows) for several. A transaction
first locks the account's row that it is about; nothing else is locked before it, so no two wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from flock_ray.errors import LedgerError
from flock_ray.market.ledger_schema import METADATA, SCHEMA_VERSION, UPGRADES, VERSION

_CONNECT = 30  # seconds for a server's answer
_CONNECTIONS = 16
_NOT_DURABLE = text("SET LOCAL synchronous_commit = off")
_ONE_STATE = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_CREATION_LOCK = 0x666C6F636B726179  # PostgreSQL's lock of whoever creates the tables


class Database:
    """Connections to one database."""

    def __init__(self, url: str, create: bool, wait: float) -> None:
        """Open a database; if `create`, make it and its tables where there are none. `wait`: see `Ledger.open`.

        Raises:
            LedgerError: see `Ledger.open`.
        """
        parsed = _parse(url)
        self.name = parsed.render_as_string(hide_password=True)
        self._create, self._wait = create, wait
        if not create and parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
            raise LedgerError(f"there is no ledger {self.name}; flock-ray serve and flock-ray key create make one")
        self._engine = _engine(parsed, wait)
        # SQLite's own waiting is a poll with growing pauses: threads of one process rather queue here.
        self._turn = Lock() if parsed.get_backend_name() == "sqlite" else nullcontext()
        try:
            self._check()
            if self._engine.dialect.name == "sqlite":
                self._keep_log()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def write(self, durable: bool = True) -> Iterator[Connection]:
        """A transaction, committed at the end and rolled back by an exception.

        Args:
            durable: whether it outlives a power failure when this returns. A killed process loses none in any case.

        Raises:
            LedgerError: the database does not answer, or is full.
        """
        with self._told(), self._turn, self._connection(durable=durable) as connection:
            if not durable and connection.dialect.name == "postgresql":
                connection.execute(_NOT_DURABLE)
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that changes nothing and sees one state of all tables; LedgerError as `write`."""
        with self._told(), self._connection(reads=True) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(_ONE_STATE)
            yield connection

    @contextmanager
    def _connection(self, **options: bool) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.execution_options(**options).begin():
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise LedgerError(f"ledger {self.name}: {_line(error)}") from None
        except PoolTimeoutError:
            raise LedgerError(f"ledger {self.name}: no connection was free for {self._wait:g} s") from None

    def _check(self) -> None:
        with self._told(), self._turn, self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _CREATION_LOCK})
            names = set(inspect(connection).get_table_names())
            if not names and not self._create:
                raise LedgerError(f"{self.name} holds no ledger yet; flock-ray serve and flock-ray key create make one")
            if not names:
                METADATA.create_all(connection)
                connection.execute(insert(SCHEMA_VERSION).values(version=VERSION))
                return
            if SCHEMA_VERSION.name not in names:
                raise LedgerError(f"{self.name} holds tables of another program ({_some(names)}): name an empty one")
            versions = connection.execute(select(SCHEMA_VERSION.c.version)).scalars().all()
            while len(versions) == 1 and versions[0] in UPGRADES:
                connection.execute(text(UPGRADES[versions[0]]))
                versions = [versions[0] + 1]
                connection.execute(update(SCHEMA_VERSION).values(version=versions[0]))
            if versions != [VERSION]:
                told = ", ".join(map(str, versions)) or "none"
                raise LedgerError(f"the ledger {self.name} has schema version {told}; this flock-ray knows {VERSION}")
            if missing := METADATA.tables.keys() - names:
                raise LedgerError(f"{self.name} is no whole ledger: it has no table {_some(missing)}")

    def _keep_log(self) -> None:
        """Let readers not wait for a writer. It changes the file, so only now, and goes outside a transaction only."""
        with self._told(), closing(self._engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA journal_mode = WAL")


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the text may hold a password
        raise LedgerError(
            "the ledger's URL is no sqlite:///FILE and no postgresql+psycopg://USER@HOST/DATABASE"
        ) from None
    backend, driver = parsed.get_backend_name(), parsed.drivername.partition("+")[2]
    if backend == "sqlite" and driver in ("", "pysqlite"):
        if parsed.host or parsed.database in (None, "", ":memory:"):
            raise LedgerError(f"{url!r} names no file: sqlite:///FILE, or sqlite:////FILE for an absolute path")
        return parsed
    if backend == "postgresql" and driver in ("", "psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise LedgerError(f"a ledger is sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE, not {parsed.drivername}")


def _engine(url: URL, wait: float) -> Engine:
    pool: dict[str, Any] = {"pool_size": _CONNECTIONS, "max_overflow": 0, "pool_timeout": wait}
    if url.get_backend_name() != "sqlite":
        return create_engine(url, connect_args={"connect_timeout": _CONNECT}, pool_pre_ping=True, **pool)
    assert url.database is not None
    try:
        Path(url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"the folder of the ledger {url.database} cannot be made: {error.strerror}") from None
    engine = create_engine(url, connect_args={"timeout": wait}, **pool)

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions: `begin` below does
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("reads"):
            connection.exec_driver_sql("BEGIN")
        else:
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if options.get('durable', True) else 'NORMAL'}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _some(names: set[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (", …" if len(names) > len(first) else "")
