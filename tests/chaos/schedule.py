"""Random schedules of faults between a relayer and its chain, and what must hold after each.

Every schedule starts from the same founded task on one anvil and settles the same reports. Whatever happens on the way,
the end is that of the run that nothing disturbed: each epoch settled once, in order, every wei where it belongs.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from flock_ray.chain import rpc, settler
from flock_ray.chain.abi import contract
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.client import ChainClient
from flock_ray.chain.eip712 import report_hash
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import run_signer
from flock_ray.chain.outbox import Outbox, State
from flock_ray.chain.values import ChainSpec, TaskView
from flock_ray.errors import ChainUnreachableError
from flock_ray.protocol.hashing import keccak
from tests.chain.world import RUN_SEED, TOKEN, World, spec
from tests.chaos.proxy import Proxy, fields_of

ON_SEND = ("dropped", "duplicated", "stuck", "under_priced", "reorged", "nonce_theft")
FAULTS = (*ON_SEND, "outage", "stale_head", "crash")
NUM_EPOCHS = 3
ALL = 0b1111
RELAYER = run_signer(RUN_SEED, "relayer")
JOURNAL_STEPS = ("plan", "sign", "sent", "mined", "give_up")

Step = Callable[[str], None]


class Violation(AssertionError):
    """A schedule ended otherwise than it must."""


class Crash(BaseException):
    """The relayer's process is gone."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Violation(what)


@dataclass(frozen=True)
class End:
    """What the chain holds in the end."""

    view: TaskView
    balances: dict[str, int]
    supply: int


@contextmanager
def hurried() -> Iterator[None]:
    """Settlers that pause for milliseconds, and look at the head after as many requests on any machine."""
    ticks = count()
    pace = {(settler, "_FIRST_POLL"): 0.002, (settler, "_LAST_POLL"): 0.02, (settler, "_FIRST_BACKOFF"): 0.005,
            (settler, "_LAST_BACKOFF"): 0.02, (rpc, "_CHECK_EVERY"): 10,
            (rpc, "monotonic"): lambda: float(next(ticks))}  # fmt: skip
    before = {key: getattr(*key) for key in pace}
    for key, value in pace.items():
        setattr(*key, value)
    yield
    for key, value in before.items():
        setattr(*key, value)


def instrument(client: ChainClient, step: Step) -> None:
    """Have `step` called before and after every write of the journal and every send."""
    one = client._settler

    def wrapped(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            step(f"before {name}")
            result = call(*args, **kwargs)
            step(f"after {name}")
            return result

        return stepping

    for name in JOURNAL_STEPS:
        setattr(one._outbox, name, wrapped(getattr(one._outbox, name), name))
    one._node.send = wrapped(one._node.send, "send")  # type: ignore[method-assign]


class Stage:
    """An anvil with a created task, the reports to settle, and the end that they lead to.

    It is good for some fifty schedules: anvil forgets the states of old blocks.
    """

    def __init__(self, folder: Path, set_variable: Callable[[str, str], None]) -> None:
        set_variable("FLOCK_RAY_RELAYER_KEY", RELAYER._key.to_hex())
        names = ["creator", "relayer", *(f"member-{i}" for i in range(5))]
        alloc = {run_signer(RUN_SEED, name).address: GAS_MONEY for name in names}
        self._anvil = AnvilProcess(Genesis("anvil", 4_711, GENESIS_TIME, alloc))
        self._folder = folder
        world = World(spec("rpc", url=self._anvil.url), folder / "undisturbed")
        world.deploy()
        self.task = world.create(num_epochs=NUM_EPOCHS)
        info = world.client.info()
        self.spec = replace(world.spec, token=info.token, task=info.task, settlement=info.settlement)
        self.domain = world.domain
        self._accounts = [world.creator.address, info.relayer, info.token, info.task, info.settlement]
        self._accounts += [member.address for member in world.members]
        self.proxy = Proxy(self._anvil.port, RELAYER, world.client._node.head())
        self._snapshot = self.proxy.ask("evm_snapshot")
        self.reports = [self._settle(world, epoch) for epoch in range(1, NUM_EPOCHS + 1)]
        self.end = self._end(world.client)
        world.client.close()

    def _settle(self, world: World, epoch: int) -> tuple[Report, bytes]:
        world.earned = {member.address: epoch * (10 + i) * TOKEN for i, member in enumerate(world.members)}
        report, _ = world.report(slashes=[ReportedSlash(2, 100 * TOKEN)] if epoch == 2 else [])
        signatures = world.sign(report, ALL)
        world.client.settle(report, ALL, signatures)
        return report, signatures

    def _end(self, client: ChainClient) -> End:
        view = replace(client.task_view(self.task), epoch_start=0)
        return End(view, client.wallet_balances(self._accounts), client.total_supply())

    def rewind(self) -> None:
        """Back to the created task."""
        self.proxy.reset()
        self.proxy.before_send = lambda raw: None
        self.proxy.ask("evm_setAutomine", True)
        assert self.proxy.ask("evm_revert", self._snapshot)
        self.proxy.ask("anvil_dropAllTransactions")  # it keeps some, and then takes them for known
        self.proxy.follow_base_fee()
        self._snapshot = self.proxy.ask("evm_snapshot")

    def open(self, folder: Path, url: str = "", journal: bool = True) -> ChainClient:
        """The relayer's client, behind the proxy unless a url is given; without a journal it forgets all at its end."""
        client = ChainClient(replace(self.spec, urls=(url or self.proxy.url,)), str(folder))
        if not journal:
            client._settler._outbox = Outbox(Path(":memory:"))
        return client

    def close(self) -> None:
        self.proxy.close()
        self._anvil.close()

    def check(self, folder: Path) -> None:
        """What must hold after a schedule.

        Raises:
            Violation: it does not.
        """
        client = self.open(folder, self._anvil.url)
        try:
            require(self._end(client) == self.end, "the contracts hold something else than after an undisturbed run")
        finally:
            client.close()
        topics = ["0x" + contract("EpochSettlement").event_topic("EpochSettled").hex(), "0x" + self.task.hex()]
        query = {"address": self.domain.contract, "fromBlock": "0x0", "toBlock": "latest", "topics": topics}
        logs = [(int(log["topics"][2], 16), log["data"][2:66]) for log in self.proxy.ask("eth_getLogs", query)]
        expected = [(report.epoch, report_hash(report).hex()) for report, _ in self.reports]
        require(logs == expected, f"epochs were settled as {[epoch for epoch, _ in logs]}")
        self._check_transactions(folder)

    def _check_transactions(self, folder: Path) -> None:
        mined = {}
        for number in range(self.proxy.floor + 1, self.proxy.head() + 1):
            for tx in self.proxy.ask("eth_getBlockByNumber", hex(number), True)["transactions"]:
                if tx["from"].lower() == RELAYER.address.lower():
                    mined[bytes.fromhex(tx["hash"][2:])] = tx["blockHash"]
        ours = {tx_hash: block for tx_hash, block in mined.items() if tx_hash not in self.proxy.stolen}
        spare = (NUM_EPOCHS - 1) * len(self.proxy.stolen)  # epochs come out of turn where an earlier one lost its nonce
        require(
            NUM_EPOCHS <= len(ours) <= NUM_EPOCHS + spare,
            f"{len(ours)} transactions of the relayer are mined for {NUM_EPOCHS} epochs",
        )
        with sqlite3.connect(folder / "chain" / "outbox.sqlite") as journal:
            attempts = journal.execute("SELECT intent, nonce, hash, raw FROM attempts ORDER BY number").fetchall()
            intents = journal.execute("SELECT epoch, state, hash, block_hash FROM intents ORDER BY epoch").fetchall()
        require(set(ours) <= {attempt[2] for attempt in attempts}, "a mined transaction is not in the journal")
        require([intent[0] for intent in intents] == list(range(1, NUM_EPOCHS + 1)), "intents are not one an epoch")
        for epoch, state, tx_hash, block in intents:
            require(State(state) in (State.MINED, State.SAFE, State.FINAL), f"epoch {epoch} is {state} in the journal")
            require(ours.get(tx_hash) == "0x" + block.hex(), f"the journal has epoch {epoch} in another block")
        for (intent, nonce, _, raw), (then, next_nonce, _, next_raw) in pairwise(attempts):
            if (intent, nonce) == (then, next_nonce):
                old, new = fields_of(raw), fields_of(next_raw)
                raised = all(8 * new[fee] >= 9 * old[fee] for fee in ("maxFeePerGas", "maxPriorityFeePerGas"))
                require(raised, "a replacement pays too little")


@dataclass
class Played:
    """What happened in a schedule."""

    fired: Counter[str]
    sessions: int


def written_ahead(folder: Path) -> Callable[[bytes], None]:
    """A check that a transaction is in the journal before the chain can have it."""

    def look(raw: bytes) -> None:
        with sqlite3.connect(folder / "chain" / "outbox.sqlite") as journal:
            found = journal.execute("SELECT 1 FROM attempts WHERE hash = ?", (keccak(raw),)).fetchone()
        require(found is not None, "a transaction was sent before it was in the journal")

    return look


def play(stage: Stage, folder: Path, faults: list[list[tuple[str, int]]], journal: bool = True) -> Played:
    """Settle every epoch under its faults, (class, number) each; a relayer that crashed is followed by a new one.

    Raises:
        Violation: the end is another than that of the undisturbed run.
    """
    stage.rewind()
    proxy, crashes, played = stage.proxy, list[int](), Played(Counter(), 0)
    if journal:
        proxy.before_send = written_ahead(folder)

    def step(name: str) -> None:
        if crashes and name.startswith("before"):
            crashes[0] -= 1
            if crashes[0] < 0:
                crashes.pop(0)
                proxy.fired["crash"] += 1
                raise Crash(name)

    def opened() -> ChainClient:
        refused = 0
        while True:
            try:
                client = stage.open(folder, journal=journal)
            except ChainUnreachableError as error:  # the RPC is away or lags just now: again, as a user would
                refused += 1
                require(refused < 100, f"the relayer does not start: {error}")
                continue
            instrument(client, step)
            played.sessions += 1
            return client

    client, settled = opened(), 0
    for epoch, due in enumerate(faults, start=1):
        proxy.on_send += [fault for fault in due if fault[0] in ON_SEND]
        crashes += [number for kind, number in due if kind == "crash"]
        for kind, number in due:
            if kind == "outage":
                proxy.go_down(1 + number)
            elif kind == "stale_head":
                proxy.lag(1 + number % 3, 5 + 3 * number)
        while settled < epoch:
            report, signatures = stage.reports[settled]
            try:
                client.settle(report, ALL, signatures)
                settled += 1
            except Crash:
                client = opened()
    proxy.calm()
    crashes.clear()
    client.confirm()
    client.close()
    played.fired = proxy.fired
    stage.check(folder)
    return played


def draw(seed: int) -> list[list[tuple[str, int]]]:
    """The faults of one schedule: one to three an epoch."""
    rng = random.Random(seed)
    return [[(rng.choice(FAULTS), rng.randrange(8)) for _ in range(rng.randint(1, 3))] for _ in range(NUM_EPOCHS)]


def settle_until(spec: ChainSpec, folder: Path, report: Report, signatures: bytes, last: int) -> None:
    """Settle in this process, which the kernel kills at step number `last`."""
    os.environ["FLOCK_RAY_RELAYER_KEY"] = RELAYER._key.to_hex()
    steps = iter(range(last + 1))
    client = ChainClient(spec, str(folder))

    def step(name: str) -> None:
        if next(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    instrument(client, step)
    client.settle(report, ALL, signatures)


def kill_everywhere(stage: Stage, folder: Path) -> int:
    """Kill the settling process at each of its steps in turn, and settle on in this one; returns the number of steps.

    Raises:
        Violation: a process that was killed left something that the next one could not put right.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "flock_ray.chain.client"])
    for last in range(100):
        stage.rewind()
        here = folder / f"killed-{last}"
        arguments = (stage.spec, here, *stage.reports[0], last)
        process = context.Process(target=settle_until, args=arguments, daemon=True)
        process.start()
        process.join(60)
        if process.exitcode == 0:
            return last
        require(process.exitcode == -signal.SIGKILL, f"the settling process ended with {process.exitcode}")
        client = stage.open(here)
        for report, signatures in stage.reports:
            client.settle(report, ALL, signatures)
        client.close()
        stage.check(here)
    raise Violation("a settlement has no end")


def crash_everywhere(stage: Stage, folder: Path, faults: list[list[tuple[str, int]]]) -> int:
    """Crash the relayer once at each of its steps in turn, under the same faults; returns the number of steps.

    Raises:
        Violation: see `play`.
    """
    for number in range(500):
        played = play(stage, folder / f"crashed-{number}", [[("crash", number), *faults[0]], *faults[1:]])
        if not played.fired["crash"]:
            return number
    raise Violation("a schedule has no end")
