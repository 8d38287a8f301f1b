"""The gateway's ledger alone: races for a budget, kills at every step of a request, and what a request costs in it.

On SQLite, and on a PostgreSQL of its own where that is installed. `measure` is also for the benchmark of the gateway.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import environment, step, store
from flock_ray.market.ledger import Ledger
from tests.market.ledger_processes import killed, lost_or_billed_twice, race
from tests.market.ledgers import USER, account, asked, new_key, opened, request_id, reserved, sign, used
from tests.market.postgres import Postgres, find_postgres, running_postgres

CLIENTS, PROCESSES = 64, 2


def measure(url: str, kill_url: str, requests: int = 1_000) -> dict[str, Any]:
    """Race, kill and count on two empty databases of one kind.

    Args:
        url: for the race and the single requests.
        kill_url: for the kills.
        requests: that the budget of the race is for.

    Returns:
        overspend_at_64_concurrent: wei beyond the budget.
        bill_vs_receipts: wei between what keys spent and the receipts that processes got.
        killed_gateway_lost_rows: requests delivered in part that have no receipt after a kill.
        killed_gateway_billed_twice: wei charged beyond the receipts.
        cpu_ms, wall_ms: of one request's admission, reservation and settlement, one after the other.
    """
    raced = race(url, CLIENTS, PROCESSES, requests)
    ended = killed(kill_url)
    with Ledger.open(kill_url) as ledger:
        charged = sum(key.spent for key in ledger.keys.find(account(USER)))
    lost, twice = lost_or_billed_twice(ended, charged)
    return {
        "overspend_at_64_concurrent": raced.overspend, "bill_vs_receipts": abs(raced.charged - raced.receipts),
        "answered": raced.answered, "killed_gateway_lost_rows": lost, "killed_gateway_billed_twice": twice,
        **_cost(kill_url),
    }  # fmt: skip


def _cost(url: str, requests: int = 300) -> dict[str, float]:
    with opened(url) as ledger:
        key = new_key(ledger, requests_per_minute=1 << 40)
        began = time.process_time(), time.perf_counter()
        for number in range(1_000, 1_000 + requests):
            ledger.admit(key.id, 1)
            reserved(ledger, key, asked(number))
            ledger.settle(request_id(number), used(), sign)
        ended = time.process_time(), time.perf_counter()
    cpu, wall = (1_000 * (last - first) / requests for first, last in zip(began, ended, strict=True))
    return {"cpu_ms": round(cpu, 3), "wall_ms": round(wall, 3)}


@contextmanager
def _servers() -> Iterator[dict[str, Postgres | None]]:
    programs = find_postgres()
    if programs is None:
        yield {"sqlite": None}
        return
    with running_postgres(programs) as server:
        yield {"sqlite": None, "postgresql": server}


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Measure both databases."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder, _servers() as servers:
        for name, server in servers.items():
            urls = [
                server.new_database() if server else f"sqlite:///{Path(folder)}/{part}.db" for part in ("race", "kill")
            ]
            with step(f"gateway_ledger: {CLIENTS} clients of {PROCESSES} processes, then kills, on {name}"):
                measured[name] = measure(urls[0], urls[1], 100 if quick else 1_000)
            print(name, measured[name])
    store("gateway_ledger", {**environment(), "databases": measured}, quick)
