"""Clients of a gateway, on plain sockets: what they cost themselves is little beside what they measure."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"


@dataclass
class Seen:
    """What clients got.

    Attributes:
        statuses: number of answers by status.
        receipts: {request id: cost} of receipts that came with answers, wei.
        requests: ids of all requests that were answered or begun.
        tokens: {request id: events with text} of streams.
        odd: what should not have happened.
    """

    statuses: dict[int, int] = field(default_factory=dict)
    receipts: dict[str, int] = field(default_factory=dict)
    requests: set[str] = field(default_factory=set)
    tokens: dict[str, int] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, status: int, body: dict[str, Any] | None = None) -> None:
        """An answer came."""
        signed = (body or {}).get("receipt")
        with self.lock:
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if signed:
                self.receipts[signed["receipt"]["request"][2:]] = signed["receipt"]["cost"]


class Client:
    """One connection, opened again when it breaks."""

    def __init__(self, port: int, secret: str, timeout: float = 120.0) -> None:
        """To a gateway of this machine."""
        self._port, self._timeout = port, timeout
        self._headers = {"x-api-key": secret, "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def ask(self, body: dict[str, Any], path: str = CHAT, **headers: str) -> http.client.HTTPResponse:
        """The response to a request, by default a conversation; its body must be read before the next."""
        data = json.dumps(body)
        try:
            self._connection.request("POST", path, data, {**self._headers, **headers})
            return self._connection.getresponse()
        except (http.client.HTTPException, OSError):
            self.close()
            raise

    def whole(self, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
        """(status, body) of an answer that is no stream."""
        response = self.ask(body, **headers)
        return response.status, json.loads(response.read())

    def close(self) -> None:
        """Go away, whatever is on its way."""
        self._connection.close()
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The objects of a stream."""
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def conversation(text: str, **more: Any) -> dict[str, Any]:
    """A body."""
    return {"model": "model-0", "messages": [{"role": "user", "content": text}], **more}


def at_once(number: int, act: Callable[[int], None]) -> None:
    """Clients at the same time; what one of them raises is raised."""
    with ThreadPoolExecutor(number) as pool:
        for future in [pool.submit(act, each) for each in range(number)]:
            future.result()


def difficult(port: int, secret: str, seconds: float, seen: Seen, seed: int) -> None:
    """A client that reads, leaves, stalls, repeats itself and errs, by chance, for a while."""
    drawn, end = random.Random(seed), time.monotonic() + seconds
    client = Client(port, secret)
    turns = (_reads, _leaves, _stalls, _repeats, _errs, _vanishes)
    while time.monotonic() < end:
        try:
            drawn.choice(turns)(client, port, secret, drawn, seen)
        except (OSError, http.client.HTTPException) as error:
            with seen.lock:
                seen.odd.append(type(error).__name__)
            client.close()
    client.close()


def _text(drawn: random.Random) -> str:
    return "한국어 and English " * drawn.randint(1, 20)


def _reads(client: Client, port: int, secret: str, drawn: random.Random, seen: Seen) -> None:
    response = client.ask(conversation(_text(drawn), stream=True, stream_options={"include_usage": True}))
    last = [*events(response)][-1:]
    seen.note(response.status, last[0] if last else None)
    if response.status == 200 and not (last and last[0].get("usage")):
        with seen.lock:
            seen.odd.append("a stream without its end")


def _leaves(client: Client, port: int, secret: str, drawn: random.Random, seen: Seen) -> None:
    response = client.ask(conversation(_text(drawn), stream=True))
    for number, _ in enumerate(events(response)):
        if number == drawn.randint(0, 30):
            break
    seen.note(response.status)
    response.close()
    client.close()


def _stalls(client: Client, port: int, secret: str, drawn: random.Random, seen: Seen) -> None:
    response = client.ask(conversation(_text(drawn), stream=True))
    time.sleep(drawn.random())
    response.read()
    seen.note(response.status)


def _repeats(client: Client, port: int, secret: str, drawn: random.Random, seen: Seen) -> None:
    name, body = f"key-{drawn.getrandbits(64)}", conversation(_text(drawn))
    answers = [client.whole(body, **{"Idempotency-Key": name}) for _ in range(2)]
    for status, answer in answers:
        seen.note(status, answer)
    if answers[0] != answers[1]:
        with seen.lock:
            seen.odd.append("a repetition with another answer")


def _errs(client: Client, port: int, secret: str, drawn: random.Random, seen: Seen) -> None:
    wrong = ({"model": "another"}, {"max_tokens": 10**6}, {"tools": [{}]}, {"messages": []})
    status, _ = client.whole({**conversation("a"), **drawn.choice(wrong)})
    seen.note(status)


def _vanishes(client: Client, port: int, secret: str, drawn: random.Random, seen: Seen) -> None:
    """Half a request, or a stream that is never read, and then no more."""
    with socket.create_connection(("127.0.0.1", port)) as half:
        body = json.dumps(conversation(_text(drawn), stream=True)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nx-api-key: {secret}\r\nContent-Type: application/json\r\n"
        half.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: drawn.choice((10, len(body)))])
        time.sleep(drawn.random() / 5)
