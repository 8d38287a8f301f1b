"""Real gateway processes on one ledger: they race for a budget, and are killed at every step of a request.

`race` and `killed` are for tests and benchmarks; `python -m tests.market.ledger_processes` is what they start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flock_ray.chain.usage import SignedReceipt
from flock_ray.errors import BudgetError
from flock_ray.market.ledger import LEASE, Ledger
from flock_ray.market.ledger_values import KeyTerms, Row, Used
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.receipt import Receipt
from tests.market.ledgers import CAP_MARGIN, NOON, USER, Clock, account, asked, free_gateway, opened, request_id, sign
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
WORST = 10 * 2 + 100 * 6
STEPS = (
    "before reserving", "while reserving", "reserved", "while progressing", "progressed", "answered", "while signing",
    "settled", "released",
)  # fmt: skip


@contextmanager
def _process(*words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.market.ledger_processes", *words]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


# A race


@dataclass(frozen=True)
class Race:
    """How a race for a budget ended.

    Attributes:
        budget: of the key, wei.
        charged: to it, by the ledger.
        receipts: sum of the receipts that the processes got.
        most: highest sum of charges and open reservations that was seen while they ran.
        answered: requests that were settled.
        refused: requests that the budget was too small for.
    """

    budget: int
    charged: int
    receipts: int
    most: int
    answered: int
    refused: int

    @property
    def overspend(self) -> int:
        """Wei beyond the budget."""
        return max(self.charged - self.budget, self.most - self.budget, 0)


def race(url: str, clients: int = 64, processes: int = 2, requests: int = 200) -> Race:
    """Clients of several processes reserve, answer and fail at once, until a budget for so many requests is used up."""
    budget = requests * WORST + 100
    with Ledger.open(url, wait=PATIENCE) as ledger:
        ledger.bind(free_gateway(), clients + 1, CAP_MARGIN)
        terms = KeyTerms(account(USER), (), 1 << 40, 1 << 40, clients + 1, budget)
        key = ledger.keys.create(terms)[0].id
        parts = [_process("race", url, key, str(number), str(clients // processes)) for number in range(processes)]
        most, told = 0, []
        running = [part.__enter__() for part in parts]
        try:
            for process in running:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
            for process in running:
                assert process.stdin is not None
                print("go", file=process.stdin, flush=True)
            while any(process.poll() is None for process in running):
                balance = ledger.balance(account(USER))
                most = max(most, balance.uncollected + balance.reserved)
                time.sleep(0.02)
            for process in running:
                assert process.stdout is not None and process.returncode == 0
                told.append([int(word) for word in process.stdout.read().split()])
        finally:
            for part in parts:
                part.__exit__(None, None, None)
        answered, receipts, refused = (sum(column) for column in zip(*told, strict=True))
        return Race(budget, ledger.keys.find()[0].spent, receipts, most, answered, refused)


def _race(url: str, key: str, number: int, clients: int) -> None:
    with Ledger.open(url, wait=PATIENCE) as ledger:
        ledger.bind(free_gateway(), 1_000, CAP_MARGIN)
        print("ready", flush=True)
        sys.stdin.readline()
        with ThreadPoolExecutor(clients) as pool:
            ends = list(pool.map(lambda client: _client(ledger, key, number * 1_000 + client), range(clients)))
    print(sum(end[0] for end in ends), sum(end[1] for end in ends), len(ends))


def _client(ledger: Ledger, key: str, client: int) -> tuple[int, int]:
    """(answered, wei) of a client that asks until the budget is used up."""
    answered, charged = 0, 0
    for number in range(1_000_000):
        request = asked(client * 1_000_000 + number)
        try:
            ledger.reserve(key, request)
        except BudgetError:
            return answered, charged
        if number % 5 == 4:
            ledger.release(request.request, "failed")
            continue
        row = ledger.settle(request.request, Used(10, 100 - number % 3, sha256(b"answer"), "stop"), sign)
        answered, charged = answered + 1, charged + row.cost
    raise AssertionError("the budget was never used up")


# Kills


@dataclass(frozen=True)
class Killed:
    """What became of a request whose process was killed at a step: its row, after recovery; None: it has none."""

    step: str
    row: Row | None


def killed(url: str) -> list[Killed]:
    """Kill a process at every step of a request, each time another request; then recover.

    The answer has 40 tokens; progress was told of 16 and 32 of them.
    """
    with opened(url, Clock(NOON)) as ledger:
        key = ledger.keys.create(KeyTerms(account(USER)))[0].id
        with _process("kill", url, key) as process:
            assert process.stdout is not None
            ended = process.stdout.read().split()
        assert ended == [str(-signal.SIGKILL)] * len(STEPS), ended
    with opened(url, Clock(NOON + LEASE + 1)) as later:
        later.recover(sign)
        assert later.recover(sign) == []
        return [Killed(step, later.row(request_id(number))) for number, step in enumerate(STEPS)]


def lost_or_billed_twice(ended: list[Killed], charged: int) -> tuple[int, int]:
    """(requests that were delivered in part and have no receipt, wei charged beyond the receipts)."""
    delivered = STEPS[STEPS.index("while progressing") : STEPS.index("released")]
    lost = sum(one.step in delivered and (one.row is None or one.row.receipt is None) for one in ended)
    return lost, abs(charged - sum(one.row.cost for one in ended if one.row is not None))


def _kill(url: str, key: str) -> None:
    for number, step in enumerate(STEPS):
        child = os.fork()
        if not child:
            _ask(url, key, number, step)
            os._exit(3)  # it should have been killed
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _ask(url: str, key: str, number: int, step: str) -> None:
    def at(point: str) -> None:
        if point == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def signing(receipt: Receipt) -> SignedReceipt:
        signed = sign(receipt)
        at("while signing")
        return signed

    clock = _KillingClock()
    ledger = opened(url, clock)
    request = request_id(number)
    at("before reserving")
    clock.armed = step == "while reserving"
    ledger.reserve(key, asked(number))
    at("reserved")
    ledger.progress(request, 10, 16, sha256(b"16"))
    _in_a_transaction(ledger, lambda: at("while progressing"))
    ledger.progress(request, 10, 32, sha256(b"32"))
    at("progressed")
    if step == "released":
        ledger.release(request, "failed")
    at("released")
    at("answered")
    ledger.settle(request, Used(10, 40, sha256(b"40"), "stop"), signing)
    at("settled")


class _KillingClock(Clock):
    """A clock whose process is killed when a transaction looks at it."""

    armed = False

    def __call__(self) -> float:
        if self.armed:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__()


def _in_a_transaction(ledger: Ledger, act: Callable[[], None]) -> None:
    with ledger._database.write(durable=False) as transaction:
        transaction.exec_driver_sql("UPDATE requests SET delivered = 99")
        act()
        transaction.rollback()


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "race":
        _race(rest[0], rest[1], int(rest[2]), int(rest[3]))
    else:
        _kill(rest[0], rest[1])
