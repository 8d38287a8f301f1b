"""Simulated users of the marketplace's demonstration: they ask over HTTP, read streams, and correct what they get."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import requests

from flock_ray.chain.eip712 import Domain, cap_digest
from flock_ray.chain.keys import Signer
from flock_ray.errors import ServeError
from flock_ray.protocol.encoding import from_hex
from flock_ray.protocol.receipt import Cap

TOKENS = 24  # of an answer
CAP = 10**18  # wei that a user lets the gateway charge
_TIMEOUT = 120.0


@dataclass
class Tally:
    """What users saw.

    Attributes:
        seconds: from when each asked to the first token.
        tokens: of answers; requests: answers that were whole.
        cost: sum of the receipts, wei.
        kept: corrections that were taken.
    """

    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    requests: int = 0
    cost: int = 0
    kept: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class User:
    """One of them, with a key of its own account."""

    def __init__(self, url: str, secret: str, signer: Signer, domain: Domain) -> None:
        """Ask at `url` with a key's secret; the account is the signer's."""
        self._url, self._signer, self._domain = url, signer, domain
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {secret}"

    def sign_cap(self) -> None:
        """Let the gateway charge this account, under the price book that it names."""
        told = self._json("GET", "/v1/caps", params={"cumulative": CAP})
        message = told["typed_data"]["message"]
        cap = Cap(
            from_hex(message["account"].lower(), 20), from_hex(message["gateway"].lower(), 20),
            from_hex(message["priceBook"]), int(message["cumulative"]), int(message["expiry"]),
        )  # fmt: skip
        signature = self._signer.sign_digest(cap_digest(self._domain, cap))
        body = {
            "price_book": message["priceBook"], "cumulative": cap.cumulative, "expiry": cap.expiry,
            "signature": f"0x{signature.hex()}",
        }  # fmt: skip
        self._json("POST", "/v1/caps", json=body)

    def ask(self, model: str, question: str, tally: Tally, tokens: int = TOKENS) -> tuple[str, str]:
        """(id, text) of an answer, read as a stream."""
        body = {
            "model": model, "messages": [{"role": "user", "content": question}], "max_tokens": tokens,
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        began, first, text, last = time.monotonic(), 0.0, [], dict[str, Any]()
        for last in self._events(body):
            for choice in last["choices"]:
                if piece := choice["delta"].get("content"):
                    first = first or time.monotonic() - began
                    text.append(piece)
        receipt = last["receipt"]["receipt"] if last.get("receipt") else {"output_tokens": 0, "cost": 0}
        with tally.lock:
            tally.seconds.append(first or time.monotonic() - began)
            tally.requests += 1
            tally.tokens += receipt["output_tokens"]
            tally.cost += receipt["cost"]
        return last["id"], "".join(text)

    def correct(self, question: str, answered: tuple[str, str], right: str, tally: Tally) -> None:
        """Say what would have been right, and that it may be trained on."""
        request, answer = answered
        body = {
            "request": request, "messages": [{"role": "user", "content": question}], "answer": answer, "rating": -1,
            "correction": right, "consent": True, "licence": "psf-2.0",
        }  # fmt: skip
        self._json("POST", "/v1/feedback", json=body)
        with tally.lock:
            tally.kept += 1

    def model_id(self, name: str) -> str:
        """What an alias names now."""
        return str(self._json("GET", f"/v1/models/{name}")["id"])

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._session.request(method, self._url + path, timeout=_TIMEOUT, **options)
        if not answer.ok:
            raise ServeError(f"{method} {path} gave {answer.status_code}: {answer.text[:200]}")
        found: dict[str, Any] = answer.json()
        return found

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        path = "/v1/chat/completions"
        with self._session.post(self._url + path, json=body, stream=True, timeout=_TIMEOUT) as answer:
            if not answer.ok:
                raise ServeError(f"POST {path} gave {answer.status_code}: {answer.text[:200]}")
            for line in answer.iter_lines():
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise ServeError(f"an answer ended with: {event['error']['message']}")
                    yield event


def ask_for(
    seconds: float, users: Sequence[User], models: Sequence[str], lessons: Sequence[tuple[str, str]]
) -> tuple[Tally, float]:
    """All users ask at once for some time, each one question after the other, and correct answers until all are said.

    Models are drawn as users draw them: the first one most (Zipf's law with exponent 1).

    Returns:
        What they saw, and how long it took, seconds.
    """
    tally, numbers, began = Tally(), count(), time.monotonic()
    odds = [1 / rank for rank in range(1, len(models) + 1)]

    def use(number: int) -> None:
        drawn = random.Random(number)
        while time.monotonic() < began + seconds:
            at = next(numbers)
            question, right = lessons[at % len(lessons)]
            answered = users[number].ask(drawn.choices(models, odds)[0], question, tally)
            if at < len(lessons) and answered[1]:
                users[number].correct(question, answered, right, tally)

    with ThreadPoolExecutor(len(users)) as pool:
        list(pool.map(use, range(len(users))))
    return tally, time.monotonic() - began


def correct_rest(users: Sequence[User], model: str, lessons: Sequence[tuple[str, str]], done: int) -> Tally:
    """The corrections that were not said yet, of answers of few tokens."""
    tally = Tally()

    def say(at: int) -> None:
        user, (question, right) = users[at % len(users)], lessons[at]
        answered = user.ask(model, question, tally, tokens=4)
        if answered[1]:
            user.correct(question, answered, right, tally)

    with ThreadPoolExecutor(len(users)) as pool:
        list(pool.map(say, range(done, len(lessons))))
    return tally
