"""A gateway as users meet it: a real server on a port of its own, a registry, a ledger on SQLite, and an engine."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
import uvicorn
from openai import OpenAI

from flock_ray.chain.eip712 import Domain, receipt_digest, usage_domain
from flock_ray.chain.keys import Signer, recover, run_signer
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.market.api import create_app
from flock_ray.market.engines import EngineClient, InProcess
from flock_ray.market.feedback import FeedbackStore
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import Key, KeyTerms
from flock_ray.market.models import Model, Price, base_offer
from flock_ray.market.registry import Registry
from flock_ray.market.settings import Settings
from flock_ray.protocol.receipt import Receipt
from flock_ray.serving.echo_engine import VOCABULARY, EchoEngine
from flock_ray.serving.engine import Engine
from flock_ray.serving.request import Limits, Request
from flock_ray.serving.stream import Event
from tests.market.entries import BASE, GATEWAY, HOST, PROTOCOL, entry
from tests.waiting import PATIENCE, wait_until

DOMAIN = usage_domain(31_337, "0x" + "5a" * 20)
RECEIPT_KEY = run_signer(1, "receipts")
USER = run_signer(1, "user")
HELLO = [{"role": "user", "content": "Hello, 세계 🌍!"}]
TEXT = HELLO[0]["content"]
SIZE = len(TEXT.encode())


def account_of(signer: Signer) -> bytes:
    return bytes.fromhex(signer.address[2:])


def adapter_bytes(number: int) -> bytes:
    """Of an adapter that the engine without a model takes."""
    return canonical_bytes({
        "a.lora_A.weight": torch.full((1, 2), float(number)), "a.lora_B.weight": torch.ones(2, 1)
    })  # fmt: skip


class Steps:
    """An engine client that waits before every event of an answer until it is let on: a model of any slowness."""

    def __init__(self, inner: EngineClient) -> None:
        self.inner, self.limits, self.reserved = inner, inner.limits, inner.reserved
        self.allowed = threading.Semaphore(0)
        self.begun = self.running = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def let(self, events: int) -> None:
        for _ in range(events):
            self.allowed.release()

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        self.begun += 1
        self.running += 1
        events = self.inner.submit(request)
        try:
            async for event in events:
                while not self.allowed.acquire(blocking=False):
                    await asyncio.sleep(0.002)
                yield event
        finally:
            self.running -= 1
            await events.aclose()


class Counted:
    """An engine client that counts the prompts that it tokenises."""

    def __init__(self, inner: EngineClient) -> None:
        self.inner, self.limits, self.reserved = inner, inner.limits, inner.reserved
        self.prompts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def prompt(self, *args: Any) -> Any:
        self.prompts += 1
        return await self.inner.prompt(*args)

    async def encode(self, text: str) -> Any:
        self.prompts += 1
        return await self.inner.encode(text)


class World:
    """One gateway process, served; `url` is where."""

    def __init__(
        self, folder: Path, engine: Engine | None = None, wrap: Callable[[InProcess], EngineClient] | None = None,
        ledger_url: str | None = None, models: int = 2, gateway_key: Signer | None = None,
        feedback: FeedbackStore | None = None, domain: Domain = DOMAIN, **settings: Any,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.registry = Registry.create(folder / "registry")
        self.models = [self.publish(number) for number in range(models)]
        if models:
            self.registry.set_alias("latest", self.models[0])
        self.ledger = Ledger.open(ledger_url or f"sqlite:///{folder}/ledger.db")
        self.engine = engine or EchoEngine(Limits(4_096, VOCABULARY, 64, 256))
        inner = InProcess(self.engine, self.registry.source)
        self.client: Any = wrap(inner) if wrap else inner
        chosen: dict[str, Any] = {
            "account_concurrent": 32, "cap_margin": 3_600, "lends": False, "base": base_offer(BASE, HOST, Price(1, 1)),
            "knowledge": folder / "knowledge", "poll_seconds": 0.02, "default_model": "latest",
        }  # fmt: skip
        account = account_of(gateway_key) if gateway_key else GATEWAY
        self.settings = Settings(account, PROTOCOL, domain, **{**chosen, **settings})
        self.app = create_app(
            self.registry, self.ledger, self.client, RECEIPT_KEY, self.settings, feedback, gateway_key
        )  # fmt: skip
        self.url = ""
        self.key, self.secret = self.new_key()

    def publish(self, number: int, **changes: Any) -> Model:
        data = adapter_bytes(number + 1)
        return self.registry.publish(entry(data, name=f"coder-{number}", **changes), data)

    def new_key(self, **terms: Any) -> tuple[Key, str]:
        values: dict[str, Any] = {"account": account_of(USER), "concurrent": 1_000, "requests_per_minute": 100_000}
        return self.ledger.keys.create(KeyTerms(**{**values, "tokens_per_minute": 10_000_000, **terms}))

    def openai(self, secret: str | None = None, **options: Any) -> OpenAI:
        client = httpx2.Client(timeout=PATIENCE, verify=False)  # no certificates to load
        url = f"{self.url}/v1"
        return OpenAI(api_key=secret or self.secret, base_url=url, max_retries=0, http_client=client, **options)

    def http(self, secret: str | None = None, **options: Any) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {secret or self.secret}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=PATIENCE, verify=False, **options)

    def ask(
        self, path: str = "/v1/chat/completions", secret: str | None = None, headers: Any = None, **body: Any
    ) -> Any:
        """The response to a request; by default a conversation."""
        if path == "/v1/chat/completions":
            body = {"model": "latest", "messages": HELLO, **body}
        with self.http(secret) as client:
            return client.post(path, json=body, headers=headers)

    def spent(self, key: Key | None = None) -> int:
        """What a key was charged, by the ledger."""
        (found,) = [one for one in self.ledger.keys.find() if one.id == (key or self.key).id]
        return found.spent

    def row(self, request_id: str) -> Any:
        return self.ledger.row(bytes.fromhex(request_id))

    @contextmanager
    def served(self) -> Iterator[World]:
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(self.app, log_level="error", lifespan="on", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join()
            listening.close()
            self.ledger.close()
            self.engine.close()


@contextmanager
def gateway(folder: Path, **options: Any) -> Iterator[World]:
    with World(folder, **options).served() as world:
        yield world


def check_receipt(body: dict[str, Any], world: World, gateway: bytes = GATEWAY) -> Receipt:
    """The receipt of an answer, whose signature is that of the receipt key."""
    signed = body["receipt"]
    receipt = Receipt.from_json(signed["receipt"])
    digest = receipt_digest(DOMAIN, receipt)
    assert recover(digest, bytes.fromhex(signed["signature"][2:])) == RECEIPT_KEY.address
    assert bytes.fromhex(signed["key"][2:]) == account_of(RECEIPT_KEY)
    assert receipt.gateway == gateway and receipt.account == account_of(USER)
    return receipt


def events_of(lines: Iterator[str]) -> Iterator[Any]:
    """Events of a stream, `[DONE]` as a text."""
    for line in lines:
        if line.startswith("data: "):
            yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])


def streamed(world: World, path: str = "/v1/chat/completions", **body: Any) -> list[Any]:
    """All events of a stream."""
    if path == "/v1/chat/completions":
        body = {"model": "latest", "messages": HELLO, **body}
    with world.http() as client, client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        return list(events_of(response.iter_lines()))


def error_of(response: Any) -> dict[str, Any]:
    """The OpenAI error object of a response, which has no other form."""
    body = response.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str) and body["error"]["message"]
    return body["error"]
