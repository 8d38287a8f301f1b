"""The ledger against a plain-Python model of it: any order of requests, deaths, caps, deposits and batches."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from flock_ray.chain.usage import SignedReceipt
from flock_ray.errors import BudgetError, RateLimitedError
from flock_ray.market.ledger import LEASE, Ledger
from flock_ray.market.ledger_values import KeyTerms, Replay, Row, State
from flock_ray.protocol.hashing import sha256
from tests.market.ledgers import (
    CAP_MARGIN,
    NOON,
    USER,
    Clock,
    account,
    asked,
    lending_gateway,
    price_book,
    publish,
    request_id,
    sign,
    signed_cap,
    used,
)
from tests.market.postgres import Postgres

BOOK = price_book()
ACCOUNT = account(USER)
KEYS = (
    {"budget": 5_000, "requests_per_minute": 6, "tokens_per_minute": 1 << 40, "concurrent": 3},
    {"budget": 1 << 70, "requests_per_minute": 1_000, "tokens_per_minute": 500, "concurrent": 4},
)
OF_ACCOUNT = 5


@dataclass
class Asked:
    """A request of the model."""

    key: int
    process: int
    tokens: tuple[int, int]
    created_at: int
    idempotency: str | None
    delivered: int = 0
    begun: int = 0
    state: State = State.OPEN
    cost: int = 0
    used: int = 0  # tokens that count against the rate

    @property
    def worst(self) -> int:
        return self.tokens[0] * 2 + self.tokens[1] * 6


@dataclass
class Model:
    """What the ledger should hold."""

    cap: int = 3_000
    deposit: int = 4_000  # standing
    collected: int = 0
    requests: dict[int, Asked] = field(default_factory=dict)
    batched: set[int] = field(default_factory=set)
    admitted: list[tuple[int, int]] = field(default_factory=list)  # (key, time)

    def open(self) -> list[Asked]:
        return [one for one in self.requests.values() if one.state is State.OPEN]

    @property
    def charged(self) -> int:
        return sum(one.cost for one in self.requests.values())

    def is_within_rate(self, key: int, requests: int, tokens: int, now: int) -> bool:
        """Whether so much more is within what a key may ask at once and in a minute."""
        running, terms = self.open(), KEYS[key]
        minute = [one for one in self.requests.values() if one.key == key and one.created_at >= now - 60]
        return (
            sum(one.key == key for one in running) < terms["concurrent"]
            and len(running) < OF_ACCOUNT
            and sum(of == key and at >= now - 60 for of, at in self.admitted) + requests <= terms["requests_per_minute"]
            and sum(one.used for one in minute) + tokens <= terms["tokens_per_minute"]
        )

    def refusal(self, key: int, tokens: tuple[int, int], now: int) -> type[Exception] | None:
        """Why a request that was admitted is refused, by the bounds in their order; None: it is not."""
        running, mine = self.open(), [one for one in self.open() if one.key == key]
        terms, cost = KEYS[key], tokens[0] * 2 + tokens[1] * 6
        if not self.is_within_rate(key, 0, sum(tokens), now):
            return RateLimitedError
        spent = sum(one.cost for one in self.requests.values() if one.key == key)
        if spent + sum(one.worst for one in mine) + cost > terms["budget"]:
            return BudgetError
        if cost and self.charged + sum(one.worst for one in running) + cost > self.cap:
            return BudgetError
        owed = self.charged - self.collected
        if cost and owed + sum(one.worst for one in running) + cost > self.deposit:
            return BudgetError
        return None


class LedgerMachine(RuleBasedStateMachine):
    url = ""
    postgres: Postgres | None = None
    requests: Bundle[int] = Bundle("requests")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.url = self.postgres.new_database() if self.postgres else f"sqlite:///{self.folder}/ledger.db"
        self.clock, self.model, self.count = Clock(), Model(), 0
        self.receipts: dict[int, SignedReceipt] = {}
        self.processes: list[Ledger] = []
        self.died: dict[int, int] = {}
        for _ in range(2):
            self.start()
        ledger = self.processes[0]
        publish(ledger, BOOK)
        self.keys = [ledger.keys.create(KeyTerms(ACCOUNT, (), **terms))[0].id for terms in KEYS]
        ledger.set_stake(1, 1)
        self.see_chain()
        ledger.caps.store(signed_cap(BOOK, self.model.cap, NOON + 10**9))

    def start(self) -> None:
        ledger = Ledger.open(self.url, self.clock)
        ledger.bind(lending_gateway(), OF_ACCOUNT, CAP_MARGIN, chain_age=10**9)
        self.processes.append(ledger)

    @property
    def living(self) -> list[int]:
        return [number for number in range(len(self.processes)) if number not in self.died]

    def any(self, draw: int) -> tuple[int, Ledger]:
        number = self.living[draw % len(self.living)]
        return number, self.processes[number]

    def teardown(self) -> None:
        for ledger in getattr(self, "processes", ()):
            ledger.close()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    # What gateways do

    @rule(
        target=requests, draw=st.integers(0, 9), key=st.integers(0, 1),
        tokens=st.tuples(st.integers(0, 60), st.integers(0, 150)), idempotency=st.sampled_from([None, None, "a", "b"]),
    )  # fmt: skip
    def reserve(self, draw: int, key: int, tokens: tuple[int, int], idempotency: str | None) -> int:
        process, ledger = self.any(draw)
        self.count += 1
        request = asked(self.count, *tokens, idempotency=idempotency, book=BOOK.hash)
        admitted = self.model.is_within_rate(key, 1, tokens[1], self.clock.now)
        try:
            ledger.admit(self.keys[key], tokens[1])
        except RateLimitedError:
            assert not admitted
            return 0
        assert admitted
        self.model.admitted.append((key, self.clock.now))
        same = [
            one for one in self.model.requests.values()
            if idempotency and (one.key, one.idempotency) == (key, idempotency) and one.state is not State.RELEASED
        ]  # fmt: skip
        refusal = self.model.refusal(key, tokens, self.clock.now)
        if same and same[0].state is State.OPEN:
            refusal = Exception
        try:
            row = ledger.reserve(self.keys[key], request)
        except Exception as error:
            assert refusal is not None and isinstance(error, refusal), error
            return 0
        if same:
            assert isinstance(row, Replay) and row.row.state is State.SETTLED
            return 0
        assert isinstance(row, Row) and refusal is None
        self.model.requests[self.count] = Asked(
            key, process, tokens, self.clock.now, idempotency, used=sum(tokens)
        )  # fmt: skip
        return self.count

    @rule(request=requests, part=st.floats(0, 1), begun=st.floats(0, 1))
    def progress(self, request: int, part: float, begun: float) -> None:
        one = self.model.requests.get(request)
        if one is None or one.process in self.died:
            return
        prompts, delivered = int(one.tokens[0] * begun), int(one.tokens[1] * part)
        self.processes[one.process].progress(request_id(request), prompts, delivered, sha256(b"%d" % delivered))
        if one.state is State.OPEN and delivered > one.delivered:
            one.begun, one.delivered = prompts, delivered

    @rule(request=requests, part=st.floats(0, 1), draw=st.integers(0, 9))
    def settle(self, request: int, part: float, draw: int) -> None:
        one = self.model.requests.get(request)
        if one is None:
            return
        output = int(one.tokens[1] * part)
        row = self.any(draw)[1].settle(request_id(request), used(one.tokens[0], output), sign)
        if one.state is State.OPEN:
            one.state, one.used = State.SETTLED, one.tokens[0] + output
            one.cost = one.tokens[0] * 2 + output * 6
        self.ended(request, row)

    @rule(request=requests, draw=st.integers(0, 9))
    def release(self, request: int, draw: int) -> None:
        one = self.model.requests.get(request)
        if one is None:
            return
        row = self.any(draw)[1].release(request_id(request), "failed")
        if one.state is State.OPEN:
            one.state, one.used = State.RELEASED, 0
        self.ended(request, row)

    def ended(self, request: int, row: Row) -> None:
        """A request ends once, and its receipt never changes."""
        one = self.model.requests[request]
        assert (row.state, row.cost) == (one.state, one.cost)
        if row.receipt is not None:
            assert self.receipts.setdefault(request, row.receipt) == row.receipt
        assert (row.receipt is not None) == (one.state is State.SETTLED)

    # What happens to them

    @rule(seconds=st.sampled_from([1, 10, 31, 62]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        for number in self.living:
            self.processes[number].beat()

    @rule(draw=st.integers(0, 9))
    def die(self, draw: int) -> None:
        number, ledger = self.any(draw)
        ledger.beat()
        self.died[number] = self.clock.now
        self.start()

    @rule(draw=st.integers(0, 9))
    def recover(self, draw: int) -> None:
        lost = {
            number: one for number, one in self.model.requests.items()
            if one.state is State.OPEN and one.process in self.died and self.died[one.process] < self.clock.now - LEASE
        }  # fmt: skip
        rows = {row.reservation.request: row for row in self.any(draw)[1].recover(sign)}
        assert rows.keys() == {request_id(number) for number in lost}
        for number, one in lost.items():
            if one.delivered:
                one.state, one.used = State.SETTLED, one.begun + one.delivered
                one.cost = one.begun * 2 + one.delivered * 6
            else:
                one.state, one.used = State.RELEASED, 0
            self.ended(number, rows[request_id(number)])

    # What users and the chain do

    @rule(more=st.integers(0, 4_000))
    def raise_cap(self, more: int) -> None:
        self.model.cap += more
        self.processes[self.living[0]].caps.store(signed_cap(BOOK, self.model.cap, NOON + 10**9))

    @rule(more=st.integers(0, 4_000))
    def deposit(self, more: int) -> None:
        self.model.deposit += more
        self.see_chain()

    @rule()
    def settle_on_chain(self) -> None:
        batches = self.processes[self.living[0]].batches
        taken = batches.take(BOOK.hash)
        waiting = {
            number for number, one in self.model.requests.items() if one.cost and number not in self.model.batched
        }
        assert (taken is not None) == bool(waiting)
        if taken is None:
            return
        receipts = batches.receipts(BOOK.hash, taken.number)
        assert {one.receipt.request for one in receipts} == {request_id(number) for number in waiting}
        self.model.batched |= waiting
        batches.mark_settled(BOOK.hash, taken.number, self.clock.now)
        assert taken.after.charges == {ACCOUNT: self.model.charged}
        took = min(self.model.charged - self.model.collected, self.model.deposit)
        self.model.collected += took
        self.model.deposit -= took
        self.see_chain()

    def see_chain(self) -> None:
        ledger = self.processes[self.living[0]]
        ledger.set_deposit(ACCOUNT, self.model.deposit, {BOOK.hash: self.model.collected})

    # What always holds

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "processes"):
            return
        ledger, model = self.processes[self.living[0]], self.model
        balance = ledger.balance(ACCOUNT)
        assert balance.uncollected == model.charged - model.collected
        assert balance.reserved == sum(one.worst for one in model.open())
        assert sum(key.spent for key in ledger.keys.find()) == model.charged == sum(
            row.cost for row in ledger.usage(ACCOUNT)
        )  # fmt: skip
        assert model.charged + balance.reserved <= model.cap and balance.lendable >= 0
        for number, key in enumerate(self.keys):
            reserved = sum(one.worst for one in model.open() if one.key == number)
            spent = next(found.spent for found in ledger.keys.find() if found.id == key)
            assert spent + reserved <= KEYS[number]["budget"]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("examples", [8, pytest.param(200, marks=pytest.mark.deep)])
def test_the_ledger_does_what_its_model_does(database: str, examples: int, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("postgres") if database == "postgresql" else None
    machine = type("Machine", (LedgerMachine,), {"postgres": server})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None))
