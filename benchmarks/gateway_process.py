"""A gateway in a process of its own, for what is done to it from outside: load, races, kills.

`python -m benchmarks.gateway_process FOLDER ENGINE PACE` serves the registry and the ledger of a folder on a port of
its own, and prints where. ENGINE is `echo`, which answers at once, or `smollm2`; PACE is what each event takes, in
seconds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ROOT
from flock_ray.chain.eip712 import usage_domain
from flock_ray.chain.keys import run_signer
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.market.api import create_app
from flock_ray.market.engines import InProcess
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import Gateway, KeyTerms
from flock_ray.market.licences import Licences
from flock_ray.market.models import Lineage, Lora, Model, Price, base_offer
from flock_ray.market.registry import Registry
from flock_ray.market.settings import Settings
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.price_book import Split
from flock_ray.serving.echo_engine import VOCABULARY, EchoEngine
from flock_ray.serving.engine import Engine
from flock_ray.serving.request import Limits, Request
from flock_ray.serving.stream import Event

GATEWAY, PROTOCOL, HOST, USER = (bytes([number]) * 20 for number in (1, 2, 3, 4))
DOMAIN = usage_domain(31_337, "0x" + "5a" * 20)
BASE, PRICE = sha256(b"base"), Price(2, 6)
MODELS = 2
ACCOUNT_CONCURRENT, CAP_MARGIN = 32, 3_600


class Paced(InProcess):
    """An engine whose events take a while."""

    pace = 0.0

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """See `EngineClient`."""
        async for event in super().submit(request):
            await asyncio.sleep(self.pace)
            yield event


def settings_of(folder: Path) -> Settings:
    """Of a gateway that takes no deposits."""
    return Settings(
        GATEWAY, PROTOCOL, DOMAIN, ACCOUNT_CONCURRENT, CAP_MARGIN, lends=False, base=base_offer(BASE, HOST, PRICE),
        knowledge=folder / "knowledge", default_model="base",
    )  # fmt: skip


def make(folder: Path) -> None:
    """A registry with some models that the engine without a model takes, and an empty ledger."""
    registry = Registry.create(folder / "registry")
    for number in range(MODELS):
        adapter = canonical_bytes({
            "a.lora_A.weight": torch.full((1, 2), 1.0 + number), "a.lora_B.weight": torch.ones(2, 1)
        })  # fmt: skip
        lineage = Lineage("alliance", 0, bytes(20), bytes(20), sha256(b"task"), 1, sha256(b"record"), sha256(b"anchor"))
        model = Model(
            f"model-{number}", sha256(adapter), BASE, sha256(b"tokenizer"), Lora(1, 1, ("a",)), 4_096,
            date(2025, 1, 1), lineage, PRICE, Split(2_000, 800, 7_200, 0), HOST, HOST,
            Licences("apache-2.0", "apache-2.0", "apache-2.0"), None,
        )  # fmt: skip
        registry.publish(model, adapter)
    with ledger_of(folder) as ledger:
        ledger.bind(Gateway(GATEWAY, DOMAIN, lends=False), ACCOUNT_CONCURRENT, CAP_MARGIN)


def ledger_of(folder: Path, later: float = 0.0) -> Ledger:
    """The ledger of a folder, as it is so many seconds later."""
    return Ledger.open(f"sqlite:///{folder}/ledger.db", lambda: time.time() + later)


def new_key(folder: Path, **terms: Any) -> tuple[str, str]:
    """(id, secret) of a key with wide bounds."""
    wide = {"requests_per_minute": 1 << 40, "tokens_per_minute": 1 << 40, "concurrent": 1_000}
    with ledger_of(folder) as ledger:
        key, secret = ledger.keys.create(KeyTerms(**{"account": USER, **wide, **terms}))
        return key.id, secret


class Process:
    """A gateway that runs.

    Attributes:
        url: where.
    """

    def __init__(self, folder: Path, engine: str = "echo", pace: float = 0.0) -> None:
        """Start it, and wait until it serves."""
        command = [sys.executable, "-m", "benchmarks.gateway_process", str(folder), engine, str(pace)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url.startswith("http"):
            raise SystemExit("error: the gateway did not start")
        self.port = int(self.url.rpartition(":")[2])

    def memory_mb(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def kill(self) -> None:
        """As the kernel does when memory is short: nothing is cleaned up."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """As an operator does."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def running(folder: Path, engine: str = "echo", pace: float = 0.0) -> Iterator[Process]:
    """A gateway, until the block ends."""
    process = Process(folder, engine, pace)
    try:
        yield process
    finally:
        process.stop()


def _engine(name: str) -> Engine:
    if name == "echo":
        return EchoEngine(Limits(4_096, VOCABULARY, 64, 256))
    from flock_ray.serving.batching_engine import BatchingEngine, Options
    from flock_ray.training.model import ModelSpec, load_base

    base = load_base(ModelSpec("packaged", "", "main", "auto", "cpu"))
    return BatchingEngine(base, Options(rows=8, adapter_slots=8, max_rank=8), date(2025, 1, 1))


def main(folder: Path, engine: str, pace: float) -> None:
    """Serve until told to end."""
    import uvicorn

    with ledger_of(folder) as ledger, _engine(engine) as made:
        registry = Registry.open(folder / "registry") if engine == "echo" else Registry.create(folder / "no_models")
        client = InProcess(made, registry.source)
        if pace:
            client = Paced(made, registry.source)
            client.pace = pace
        app = create_app(registry, ledger, client, run_signer(1, "receipts"), settings_of(folder))
        listening = socket.create_server(("127.0.0.1", 0), backlog=1_024)
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
