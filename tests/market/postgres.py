"""A real PostgreSQL of the tests' own: started in a folder of its own, reached by a socket in it, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg


def find_postgres() -> Path | None:
    """Folder of PostgreSQL's programs: on the path, or where Debian has them; None if there are none."""
    found = shutil.which("postgres")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").is_file()), None)


class Postgres:
    """A running server; each test gets a database of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._names = folder, count(1)

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql+psycopg://postgres@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"ledger_{next(self._names)}"
        with psycopg.connect(host=str(self._folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)


@contextmanager
def running_postgres(programs: Path) -> Iterator[Postgres]:
    """A server, for as long as the block runs. It refuses to run as root: then it runs as another user."""
    user = None
    if os.geteuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in known else "nobody"
    folder = Path(tempfile.mkdtemp(prefix="flock_ray_pg_"))  # a socket's path is short, so not below pytest's folder
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"

        def run(program: str, *words: str) -> None:
            log = (folder / "log").read_text if (folder / "log").is_file() else str
            done = subprocess.run(
                [programs / program, *words], user=user, cwd=folder, capture_output=True, text=True, env={}
            )
            assert done.returncode == 0, f"{program}: {done.stderr}\n{log()}"

        run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=200"
        run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-w", "-t", "600", "-o", settings, "start")
        try:
            yield Postgres(folder)
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
