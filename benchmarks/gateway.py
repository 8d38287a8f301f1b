"""The gateway before an engine that answers at once: what it costs, what it charges, and what it survives.

    python benchmarks/run.py gateway [only=speed|only=money|only=suites|only=soak] [--quick]

Gateways are processes of their own, with a ledger on SQLite, and receipts signed. `gateway_overhead_ms` is what a whole
answer of 64 tokens takes beyond the engine itself, one client, one connection; `requests_per_s_gateway` what eight
connections get. 64 clients race one budget through two processes; a process with open streams is killed, and another
one recovers what it left. Client suites run in environments of their own, from the package index; one that does not
install is told. The soak lasts 20 minutes: clients that read, leave, stall, vanish, repeat themselves and err, and the
memory of the process, fitted by a line over the second half.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy

from benchmarks.common import earlier_result, environment, step, store, tell
from benchmarks.gateway_load import Client, Seen, at_once, conversation, difficult, events
from benchmarks.gateway_process import Process, ledger_of, make, new_key, running
from flock_ray.market.ledger import LEASE
from flock_ray.market.ledger_values import State
from flock_ray.serving.echo_engine import EchoEngine
from flock_ray.serving.request import Request
from tests.market.ledger_processes import killed, lost_or_billed_twice, race

TOKENS = 64
TEXT = "x" * TOKENS
PRICE = TOKENS * 8  # wei of a whole answer: 2 and 6 a token
CLIENTS, PROCESSES = 64, 2
STREAMS = 16  # open when a gateway is killed
PACE = 0.005  # seconds an event, of those

Measured = tuple[dict[str, Any], dict[str, float]]


@dataclass(frozen=True)
class Extent:
    """How much is measured: requests of one client, seconds of eight, answers that a budget lasts for, soak."""

    requests: int
    seconds: float
    budget: int
    soak_seconds: float
    soak_clients: int


WHOLE = Extent(requests=1_000, seconds=20.0, budget=300, soak_seconds=1_200.0, soak_clients=12)
QUICK = Extent(requests=100, seconds=3.0, budget=60, soak_seconds=20.0, soak_clients=6)


def speed(folder: Path, extent: Extent) -> Measured:
    """One client's latency, and the rate of eight."""
    _, secret = new_key(folder)
    with running(folder) as gateway:
        with step("one client, whole answers"):
            client = Client(gateway.port, secret)
            _each(50, lambda: client.whole(conversation(TEXT)))
            whole = _each(extent.requests, lambda: client.whole(conversation(TEXT)))
        with step("one client, streams"):
            streamed = _each(extent.requests // 4, lambda: client.ask(conversation(TEXT, stream=True)).read())
        with step("eight clients"):
            rate = _rate(gateway, secret, extent.seconds)
    engine = EchoEngine()
    direct = _each(extent.requests, lambda: engine.submit(Request(engine.encode(TEXT))).result())
    measured = {
        "ms": {
            "engine": 1e3 * mean(direct), "whole": 1e3 * mean(whole), "whole_median": 1e3 * median(whole),
            "stream": 1e3 * mean(streamed), "stream_median": 1e3 * median(streamed),
        }
    }  # fmt: skip
    return measured, {
        "gateway_overhead_ms": 1e3 * (mean(whole) - mean(direct)),
        "gateway_overhead_ms_stream": 1e3 * (mean(streamed) - mean(direct)),
        "requests_per_s_gateway": rate,
    }


def _each(times: int, act: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return taken


def _rate(gateway: Process, secret: str, seconds: float) -> float:
    answered = [0] * 8
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        client = Client(gateway.port, secret)
        while time.perf_counter() < end:
            status, _ = client.whole(conversation(TEXT))
            assert status == 200, status
            answered[number] += 1

    began = time.perf_counter()
    at_once(8, ask)
    return sum(answered) / (time.perf_counter() - began)


def money(folder: Path, extent: Extent) -> Measured:
    """Races and kills: by HTTP, and of the ledger alone at every step of a request."""
    measured: dict[str, Any] = {}
    with step(f"{CLIENTS} clients race one budget through {PROCESSES} gateways"):
        over, bill = _race(folder, extent, measured)
    with step("a gateway is killed with open streams, and another one recovers"):
        lost, twice = _killed(folder, measured)
    with tempfile.TemporaryDirectory() as alone, step("the ledger alone: a race, and a kill at every step"):
        raced = race(f"sqlite:///{alone}/race.db", CLIENTS, PROCESSES, extent.budget)
        url = f"sqlite:///{alone}/killed.db"
        ended = killed(url)
        from flock_ray.market.ledger import Ledger

        with Ledger.open(url) as ledger:
            ledger_lost, ledger_twice = lost_or_billed_twice(ended, ledger.keys.find()[0].spent)
    measured["ledger"] = {
        "overspend": raced.overspend, "bill": raced.charged - raced.receipts, "answered": raced.answered,
        "kills": len(ended), "lost": ledger_lost, "billed_twice": ledger_twice,
    }  # fmt: skip
    return measured, {
        "overspend_at_64_concurrent": max(over, raced.overspend),
        "bill_vs_receipts": abs(bill) + abs(raced.charged - raced.receipts),
        "killed_gateway_lost_rows": lost + ledger_lost,
        "killed_gateway_billed_twice": twice + ledger_twice,
    }


def _race(folder: Path, extent: Extent, measured: dict[str, Any]) -> tuple[int, int]:
    """(wei beyond the budget, wei charged beyond the receipts)."""
    budget = extent.budget * PRICE
    key, secret = new_key(folder, budget=budget)
    seen = Seen()
    with running(folder) as one, running(folder) as two:

        def ask(number: int) -> None:
            client = Client((one, two)[number % 2].port, secret)
            for _ in range(1_000):
                status, body = client.whole(conversation(TEXT, max_tokens=TOKENS))
                seen.note(status, body)
                if status == 429 and body["error"]["code"] == "insufficient_quota":
                    return

        at_once(CLIENTS, ask)
    with ledger_of(folder) as ledger:
        (spent,) = [one.spent for one in ledger.keys.find() if one.id == key]
    measured["race"] = {"budget": budget, "spent": spent, "statuses": seen.statuses, "receipts": len(seen.receipts)}
    return max(0, spent - budget), spent - sum(seen.receipts.values())


def _killed(folder: Path, measured: dict[str, Any]) -> tuple[int, int]:
    """(rows lost, wei billed beyond the rows' receipts), after a kill with open streams."""
    key, secret = new_key(folder)
    seen, half = Seen(), threading.Barrier(STREAMS + 1)
    gateway = Process(folder, "echo", PACE)

    def read(number: int) -> None:
        client = Client(gateway.port, secret)
        response = client.ask(conversation("x" * 2_000, stream=True))
        request, got = response.headers["x-request-id"], -1  # the first event has only the role
        try:
            for _ in events(response):
                got += 1
                if got == 20 + number:
                    half.wait()
                seen.tokens[request] = got
        except OSError:
            return

    with ThreadPoolExecutor(STREAMS) as pool:
        reading = [pool.submit(read, number) for number in range(STREAMS)]
        half.wait()
        gateway.kill()
        for future in reading:
            future.result()
    with running(folder), ledger_of(folder) as ledger:
        deadline = time.monotonic() + 10 * LEASE
        rows = []
        while time.monotonic() < deadline:
            rows = [ledger.row(bytes.fromhex(request)) for request in seen.tokens]
            if all(row is not None and row.state is not State.OPEN for row in rows):
                break
            time.sleep(0.5)
        (spent,) = [one.spent for one in ledger.keys.find() if one.id == key]
    lost = sum(row is None or row.receipt is None for row in rows)
    delivered = list(seen.tokens.values())
    billed = [row.receipt.receipt.output_tokens for row in rows if row and row.receipt]
    measured["killed"] = {"streams": len(rows), "tokens_read": delivered, "tokens_billed": billed, "spent": spent}
    return lost, abs(spent - sum(row.cost for row in rows if row))


def soak(folder: Path, extent: Extent) -> Measured:
    """Difficult clients for a long time: memory, and whether the bill is right in the end."""
    key, secret = new_key(folder)
    seen, memory = Seen(), list[tuple[float, float]]()
    with running(folder, "echo", 0.0005) as gateway, step(f"soak of {extent.soak_seconds:.0f} s"):
        began = time.monotonic()
        with ThreadPoolExecutor(extent.soak_clients) as pool:
            clients = [
                pool.submit(difficult, gateway.port, secret, extent.soak_seconds, seen, seed)
                for seed in range(extent.soak_clients)
            ]
            while not all(client.done() for client in clients):
                memory.append((time.monotonic() - began, gateway.memory_mb()))
                time.sleep(extent.soak_seconds / 240)
        for client in clients:
            client.result()
    with ledger_of(folder) as ledger:
        (spent,) = [one.spent for one in ledger.keys.find() if one.id == key]
        days = ledger.usage(b"\4" * 20, key=key)
        left = ledger.balance(b"\4" * 20).reserved
    late = numpy.array(memory[len(memory) // 2 :])
    slope = float(numpy.polyfit(late[:, 0], late[:, 1], 1)[0]) * 3_600
    measured = {
        "seconds": extent.soak_seconds, "clients": extent.soak_clients, "statuses": seen.statuses,
        "odd": sorted(set(seen.odd)), "answered": sum(day.requests for day in days), "spent": spent,
        "memory_mb": [round(mb, 1) for _, mb in memory[:: max(1, len(memory) // 24)]],
    }  # fmt: skip
    return measured, {
        "soak_mb_per_hour": slope,
        "soak_memory_mb": memory[-1][1],
        "soak_answers": sum(seen.statuses.values()),
        "soak_odd": len(seen.odd),
        "soak_bill_difference": abs(spent - sum(day.cost for day in days)) + left,
    }


def suites(folder: Path, extent: Extent) -> Measured:
    """Other people's clients and test suites."""
    from benchmarks.gateway_suites import run_all

    return run_all(folder)


SECTIONS: dict[str, Callable[[Path, Extent], Measured]] = {
    "speed": speed, "money": money, "suites": suites, "soak": soak,
}  # fmt: skip


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store each section as it is done."""
    extent = QUICK if quick else WHOLE
    known = [f"only={name}" for name in SECTIONS]
    if len(overrides) > 1 or any(one not in known for one in overrides):
        raise SystemExit(f"error: gateway takes one override of {', '.join(known)}")
    result: dict[str, Any] = earlier_result("gateway", quick) if overrides else {"headline": {}}
    result["environment"] = environment()
    for name, section in SECTIONS.items():
        if overrides and overrides[0] != f"only={name}":
            continue
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            result[name], headline = section(Path(folder), extent)
        result["headline"] |= headline
        store("gateway", result, quick)
    for name, value in result["headline"].items():
        tell(f"{name}: {value:.3g}")
