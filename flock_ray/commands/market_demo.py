"""`flock-ray market-demo`: the marketplace from a trained run to the next version, in minutes on two cores.

A small run is trained and every adapter that it settled is served; sixteen users stream for a minute and correct what
they get; what they used is settled on a local chain; their corrections are trained on, and the new version is served
under the alias. `run=RUN_DIR` serves a run that there is, `seconds=60` is how long users ask, `port=8000` where.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from flock_ray.chain.words import format_tokens
from flock_ray.cluster.run_directory import load_config
from flock_ray.commands.demo_chain import DemoChain
from flock_ray.commands.demo_lessons import CORRECTIONS, lessons
from flock_ray.commands.demo_next import drawing_pool
from flock_ray.commands.demo_users import Tally, User, ask_for, correct_rest
from flock_ray.commands.feedback import as_file, next_config
from flock_ray.commands.serve import play as serve
from flock_ray.commands.serving_plan import Opened
from flock_ray.commands.settings import MarketDemoSettings, read_settings
from flock_ray.config import EngineConfig, ServeConfig
from flock_ray.errors import FlockRayError, ServeError
from flock_ray.market.feedback import FeedbackStore
from flock_ray.market.feedback_export import HELDOUT, SILO, export
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import KeyTerms
from flock_ray.market.licences import strictest
from flock_ray.market.models import Model, Price
from flock_ray.market.registry import Registry
from flock_ray.market.settlement import Settlement
from flock_ray.telemetry.table import Console

if TYPE_CHECKING:
    from flock_ray.market.publish import Listing

USERS, ALIAS = 16, "coder"
_PRICE = Price(2 * 10**12, 6 * 10**12)
_NEW_VERSION = 120.0  # seconds until the gateway serves it


def market_demo(asked: Namespace) -> None:
    """Play it."""
    MarketDemo(read_settings(MarketDemoSettings, asked.settings)).play()


class MarketDemo:
    """One demonstration, in a folder of its own under outputs/market-demo."""

    def __init__(self, settings: MarketDemoSettings) -> None:
        """Prepare a folder."""
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # the next task joins this Ray from a process of its own
        self._settings, self._console, self._began = settings, Console(), time.monotonic()
        self._folder = Path.cwd() / "outputs" / "market-demo" / time.strftime("%Y-%m-%d_%H-%M-%S")
        self._folder.mkdir(parents=True)
        self._accept = list(filter(None, settings.accept.split(",")))
        self._facts: list[tuple[str, str]] = []

    def play(self) -> None:
        """From a run to the next version."""
        start = self._trained()
        models = self._published(start)
        self._step(f"{len(models)} settled adapters are published; a chain is deployed on")
        chain = DemoChain(self._folder / "chain", USERS)
        try:
            config = ServeConfig(
                folder=str(self._folder / "market"), port=self._settings.port,
                model=load_config(start).model, engine=EngineConfig(context_length=512),
            )  # fmt: skip
            os.environ.update(chain.environment())
            serve(config, lambda opened: self._used(opened, chain, start, models), chain.domain)
        finally:
            chain.close()

    # A run, and what it settled

    def _trained(self) -> Path:
        """The run that is served."""
        if self._settings.run:
            return Path(self._settings.run).resolve()
        self._step("An alliance is trained: ten epochs of short steps")
        self._command("alliance", "experiment=market", f"output_dir={self._folder / 'runs'}")
        return self._latest()

    def _latest(self) -> Path:
        return (self._folder / "runs" / "latest").resolve()

    def _published(self, start: Path) -> list[Model]:
        """All that the run settled, the last epoch's first and under the alias."""
        from flock_ray.market.publish import publish_epochs  # slow: it imports transformers

        self._step("The run is verified, and what it settled is published")
        folder = self._folder / "market" / "registry"
        models = publish_epochs(folder, start, _listing(), self._accept)
        Registry.open(folder).set_alias(ALIAS, models[-1])
        return models[::-1]

    # While it is served

    def _used(self, opened: Opened, chain: DemoChain, start: Path, models: Sequence[Model]) -> None:
        ledger = Ledger.open(opened.ledger)
        settlement = chain.settlement(ledger, self._folder / "market" / "batches")
        users = [
            User(opened.url, ledger.keys.create(KeyTerms(_account(signer.address)))[1], signer, chain.domain)
            for signer in chain.users
        ]
        settlement.watch()
        for user in users:
            user.sign_cap()
        self._step(f"{USERS} users ask for {self._settings.seconds} s; look at {opened.url}/")
        known = lessons()
        tally, seconds = ask_for(self._settings.seconds, users, [ALIAS, *(one.id for one in models[1:])], known)
        self._tell_use(tally, seconds)
        rest = correct_rest(users, ALIAS, known, min(tally.requests, CORRECTIONS))
        self._fact("corrections", f"{tally.kept + rest.kept}")
        self._settle(settlement, chain, ledger, tally.cost + rest.cost)
        new = self._taught(opened, start)
        settlement.watch()
        self._served(opened, users[0], new, known[0][0])
        ledger.close()
        self._summary(opened)

    def _tell_use(self, tally: Tally, seconds: float) -> None:
        late = quantiles(tally.seconds, n=20)[-1]
        self._fact("answers", f"{tally.requests}, {tally.tokens / seconds:.1f} tokens/s")
        self._fact("first token", f"after {median(tally.seconds):.2f} s, 95 % within {late:.2f} s")

    def _settle(self, settlement: Settlement, chain: DemoChain, ledger: Ledger, cost: int) -> None:
        """Settle, collect and pay what was used, and compare it with what users hold receipts of."""
        self._step("What they used is settled on the chain")
        settlement.watch()
        [book] = [row.price_book for row in ledger.batches.waiting()]
        batches = list(settlement.settle(book))
        total = batches[-1].batch.tables.total
        settlement.collect(chain.pass_time())
        calls = settlement.claims(book)
        chain.send(calls)
        receipts = sum(batch.receipts for batch in batches)
        same = "the same" if total == cost else f"NOT the {format_tokens(cost)} of their receipts"
        self._fact("settled", f"{receipts} receipts, {format_tokens(total)} tokens: {same} as users' receipts say")
        members = self._members(batches[-1].batch.tables.payouts)
        self._fact("paid", f"{len(calls)} accounts, to members {format_tokens(members - members % 10**12)} tokens")
        if total != cost:
            raise ServeError("the bill is another than that of the receipts")

    def _members(self, payouts: Any) -> int:
        registry = Registry.open(self._folder / "market" / "registry")
        members = {account for table in registry.leaf_tables().values() for account in table.rewards}
        return sum(units for account, units in payouts.items() if account in members)

    # The next version

    def _taught(self, opened: Opened, start: Path) -> Model:
        """An alliance of one epoch with the corrections as a silo more; its adapter is published under the alias."""
        from flock_ray.cluster.runtime import head_address
        from flock_ray.market.publish import publish_run

        self._step("The corrections become a silo, and the next epoch is trained")
        silo = self._folder / "silo"
        said = export(FeedbackStore(self._folder / "market" / "feedback"), silo)
        config = next_config(load_config(start), start, silo / SILO)
        alliance = replace(config.alliance, num_epochs=1, num_proposers=5)
        config = replace(config, alliance=alliance)
        config = replace(config, alliance=replace(alliance, pool=drawing_pool(config, start)))
        config = replace(config, output_dir=str(self._folder / "runs"), training=replace(config.training, steps=8))
        (self._folder / "next.yaml").write_text(as_file(config))
        ray = ["cluster.mode=existing", f"cluster.address={head_address()}", "cluster.nodes=1"]
        self._command("alliance", "--config-dir", str(self._folder), "--config-name", "next", *ray)
        run = self._latest()
        registry = self._folder / "market" / "registry"
        licence = strictest([opened.snapshot.resolve(ALIAS).licences.data, *said.licences])
        new = publish_run(registry, run, _listing(licence), accept=self._accept)
        Registry.open(registry).set_alias(ALIAS, new)
        self._step("The loss on corrections that were held out is measured")
        before, after = (self._loss(one, silo / HELDOUT) for one in (start, run))
        self._fact("loss on held-out corrections", f"{before:.4f} before, {after:.4f} after")
        return new

    def _loss(self, run: Path, rows: Path) -> float:
        told = self._command("evaluate", f"run={run}", f"data={rows}", "--json")
        loss: float = json.loads(told.splitlines()[-1])["files"][0]["adapter_loss"]
        return loss

    def _served(self, opened: Opened, user: User, new: Model, question: str) -> None:
        end = time.monotonic() + _NEW_VERSION
        while user.model_id(ALIAS) != new.id:
            if time.monotonic() > end:
                raise ServeError(f"{ALIAS} does not name {new.id} after {_NEW_VERSION:g} s")
            time.sleep(0.2)
        user.sign_cap()  # another model makes another price book
        user.ask(ALIAS, question, Tally())
        self._fact("now served", f"{ALIAS} = {new.id}, which began from {opened.snapshot.resolve(ALIAS).id}")

    # Words

    def _step(self, what: str) -> None:
        self._console.line(f"[{time.monotonic() - self._began:4.0f} s] {what}")

    def _fact(self, name: str, value: str) -> None:
        self._facts.append((name, value))
        self._step(f"{name}: {value}")

    def _summary(self, opened: Opened) -> None:
        self._fact("took", f"{time.monotonic() - self._began:.0f} s")
        self._console.rows("the marketplace", ("what", "how much"), self._facts)
        self._console.line(f"Open {opened.url}/ and {opened.url}/playground; all of it is in {self._folder}")
        if sys.stdout.isatty():
            self._console.line("Ctrl-C ends it")
            while True:
                time.sleep(1)

    def _command(self, *words: str) -> str:
        """What a command of ours prints; its output goes to a file beside."""
        log = self._folder / f"{len(list(self._folder.glob('*.log')))}-{words[0]}.log"
        with log.open("w") as errors:
            ended = subprocess.run(
                [sys.executable, "-m", "flock_ray", *words], stdout=subprocess.PIPE, stderr=errors, text=True
            )
            errors.write(ended.stdout)
        if ended.returncode:
            last = log.read_text().strip().splitlines()
            raise FlockRayError(f"flock-ray {words[0]} failed: {last[0] if last else ended.returncode}; see {log}")
        return ended.stdout


def _listing(data_licence: str = "") -> Listing:
    from flock_ray.market.publish import Listing  # slow: it imports transformers

    return Listing(name="coder-model", price=_PRICE, data_licence=data_licence)


def _account(address: str) -> bytes:
    return bytes.fromhex(address[2:])
