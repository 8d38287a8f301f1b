"""Streams that do not go well: clients that go away, stall or vanish, and engines that fail in the middle."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from flock_ray.errors import BusyError
from flock_ray.market.engines import AwayError, EngineClient
from flock_ray.market.ledger_values import Row, State
from flock_ray.protocol.hashing import sha256
from flock_ray.serving.echo_engine import VOCABULARY, EchoEngine
from flock_ray.serving.request import Limits, Request
from flock_ray.serving.stream import Event, Finished, FinishReason
from tests.market.gateways import HELLO, Steps, World, error_of, events_of, gateway, streamed
from tests.waiting import wait_until

CHAT = "/v1/chat/completions"
LONG = [{"role": "user", "content": "x" * 400}]


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[World, Steps]]:
    with gateway(tmp_path, wrap=Steps) as world:
        yield world, world.client


def ended(world: World, request: str) -> Row:
    """The row of a request, once it has an end."""

    def over() -> bool:
        row = world.row(request)
        return row is not None and row.state is not State.OPEN

    wait_until(over)
    row: Row = world.row(request)
    return row


def test_a_client_that_goes_away_stops_its_answer_and_pays_for_what_it_got(slow: tuple[World, Steps]) -> None:
    world, steps = slow
    steps.let(40)
    body = {"model": "latest", "messages": LONG, "stream": True}
    with world.http() as client, client.stream("POST", CHAT, json=body) as response:
        request, events = response.headers["x-request-id"], events_of(response.iter_lines())
        text = "".join(next(events)["choices"][0]["delta"]["content"] for _ in range(41))  # the first has the role
        assert text == "x" * 40 and steps.running == 1
        assert world.row(request).delivered in (16, 32)  # noted every 16 tokens
    row = ended(world, request)
    wait_until(lambda: steps.running == 0)  # the engine was told
    assert row.state is State.SETTLED and row.finish_reason == "cancelled" and row.receipt
    receipt = row.receipt.receipt
    assert (receipt.output_tokens, receipt.prompt_tokens) == (40, 400) and receipt.output == sha256(b"x" * 40)
    assert world.spent() == receipt.cost == 400 * 2 + 40 * 6


def test_a_client_that_goes_away_before_the_first_token_pays_nothing(slow: tuple[World, Steps]) -> None:
    world, steps = slow
    for stream in (True, False):
        begun = steps.begun
        port = int(world.url.rpartition(":")[2])
        body = json.dumps({"model": "latest", "messages": HELLO, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(_head(world, len(body)) + body)
            wait_until(lambda begun=begun: steps.begun == begun + 1 and steps.running == 1)  # type: ignore[misc]
        wait_until(lambda: steps.running == 0)
    wait_until(lambda: "flock_ray_reserved_requests 0.0" in world.http().get("/metrics").text)
    assert world.spent() == 0


def test_a_whole_answer_whose_client_goes_away_is_not_charged(slow: tuple[World, Steps]) -> None:
    world, steps = slow
    body = json.dumps({"model": "latest", "messages": LONG}).encode()
    port = int(world.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(_head(world, len(body)) + body)
        steps.let(20)
        wait_until(lambda: steps.allowed._value == 0 and steps.running == 1)
    wait_until(lambda: steps.running == 0)
    wait_until(lambda: 'route="/v1/chat/completions",status="499"' in world.http().get("/metrics").text)
    assert world.spent() == 0 and world.ledger.usage(world.key.terms.account) == []


def _head(world: World, length: int) -> bytes:
    lines = (
        f"POST {CHAT} HTTP/1.1", "Host: gateway", f"x-api-key: {world.secret}", "Content-Type: application/json",
        f"Content-Length: {length}", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


def test_a_reader_that_does_not_read_is_ended_and_its_answer_is_not_kept(tmp_path: Path) -> None:
    engine = EchoEngine(Limits(1 << 20, VOCABULARY, 64, 256))
    with gateway(tmp_path, engine=engine, write_seconds=0.3) as world:
        size = 100_000  # tokens; each is an event of more than 200 bytes
        body = json.dumps({"model": "base", "messages": [{"role": "user", "content": "x" * size}], "stream": True})
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect(("127.0.0.1", int(world.url.rpartition(":")[2])))
            client.sendall(_head(world, len(body)) + body.encode())
            first = client.recv(2_000).decode()
            row = ended(world, first.partition("x-request-id: ")[2][:64])
        assert row.state is State.SETTLED and row.finish_reason == "cancelled" and row.receipt
        assert 0 < row.receipt.receipt.output_tokens < size


def test_an_answer_that_takes_too_long_ends_and_costs_what_was_delivered(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Steps, answer_seconds=0.5) as world:
        answer = world.ask()
        assert answer.status_code == 504 and error_of(answer)["code"] == "timeout"
        world.client.let(3)
        *parts, error, done = streamed(world)
        assert error["error"]["code"] == "timeout" and done == "[DONE]" and len(parts) == 4
        wait_until(lambda: world.client.running == 0)
        row = ended(world, parts[0]["id"].rpartition("-")[2])
        assert row.finish_reason == "timeout" and row.receipt.receipt.output_tokens == 3
        assert world.spent() == row.receipt.receipt.cost > 0


def test_log_probabilities_are_an_answer_though_a_stop_string_left_no_text(tmp_path: Path) -> None:
    with gateway(tmp_path) as world:
        body = {"model": "base", "prompt": "abc", "stop": ["a"], "logprobs": 1}
        whole = world.ask("/v1/completions", **body).json()
        assert whole["choices"][0]["text"] == "" and whole["receipt"]["receipt"]["output_tokens"] == 1
        events = streamed(world, "/v1/completions", **body)
        assert events[-2]["receipt"]["receipt"]["output_tokens"] == 1
        body.pop("logprobs")
        assert world.ask("/v1/completions", **body).json()["receipt"] is None


class Broken:
    """An engine client whose answers end in another way after some tokens."""

    def __init__(self, inner: EngineClient) -> None:
        self.inner, self.limits, self.reserved = inner, inner.limits, inner.reserved
        self.after, self.end = 3, FinishReason.ERROR
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        left = self.after
        async for event in self.inner.submit(request):
            if not left:
                if self.error is not None:
                    raise self.error
                yield Finished(self.end, 1, 0, self.after, "", "/secret/path of the machine")
                return
            left -= 1
            yield event


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[tuple[World, Broken]]:
    with gateway(tmp_path, wrap=Broken) as world:
        yield world, world.client


@pytest.mark.parametrize("error", [None, RuntimeError("/secret/path")])
def test_an_engine_that_fails_tells_no_client_why_and_nothing_is_charged(
    broken: tuple[World, Broken], error: Exception | None
) -> None:
    world, engine = broken
    engine.error = error
    for after in (0, 3):
        engine.after = after
        answer = world.ask()
        assert answer.status_code == 500 and error_of(answer)["code"] == "internal_error"
        assert "secret" not in answer.text
    *parts, failure, done = streamed(world)
    assert failure["error"]["code"] == "internal_error" and done == "[DONE]"
    assert len(parts) == 4 and "secret" not in json.dumps(failure)
    assert all(part["choices"][0]["finish_reason"] is None for part in parts)
    with pytest.raises(openai.APIError):  # the client does not take it for an answer that ended
        for _ in world.openai().chat.completions.create(model="latest", messages=HELLO, stream=True):  # type: ignore[arg-type]
            pass
    assert world.spent() == 0 and "flock_ray_reserved_requests 0.0" in world.http().get("/metrics").text


def test_a_stream_that_fails_before_its_first_event_has_a_status(broken: tuple[World, Broken]) -> None:
    world, engine = broken
    engine.after = 0
    for end, status in ((FinishReason.ERROR, 500), (FinishReason.CANCELLED, 503)):
        engine.end = end
        answer = world.ask(stream=True)
        assert answer.status_code == status
        error_of(answer)
    engine.error = BusyError("256 requests wait already, as many as may; try again later")
    answer = world.ask(stream=True)
    assert answer.status_code == 429 and error_of(answer)["code"] == "engine_busy"
    assert int(answer.headers["retry-after"]) > 0


def test_a_full_queue_is_429_with_a_time(broken: tuple[World, Broken]) -> None:
    world, engine = broken
    engine.after, engine.error = 0, BusyError("256 requests wait already, as many as may; try again later")
    answer = world.ask()
    assert answer.status_code == 429 and error_of(answer)["code"] == "engine_busy" and answer.headers["retry-after"]
    assert world.spent() == 0


def test_an_engine_that_is_closed_or_away_is_503(broken: tuple[World, Broken]) -> None:
    world, engine = broken
    engine.end = FinishReason.CANCELLED
    for error in (None, AwayError("no engine answers now")):
        engine.error = error
        answer = world.ask()
        assert answer.status_code == 503 and error_of(answer)["code"] == "engine_unavailable"
        assert answer.headers["retry-after"] and world.spent() == 0


def test_one_of_several_answers_that_fails_ends_all(broken: tuple[World, Broken]) -> None:
    world, _ = broken
    answer = world.ask("/v1/completions", model="latest", prompt=["abcdef", "ab"])
    assert answer.status_code == 500
    *_, failure, done = streamed(world, "/v1/completions", model="latest", prompt=["abcdef", "ab"])
    assert failure["error"]["code"] == "internal_error" and done == "[DONE]"
    assert world.spent() == 0


def test_every_stream_ends_with_a_reason_and_done(tmp_path: Path) -> None:
    with gateway(tmp_path) as world:
        for text in ("a", "한", "x" * 100):
            *parts, done = streamed(world, messages=[{"role": "user", "content": text}])
            assert done == "[DONE]"
            reasons = [part["choices"][0]["finish_reason"] for part in parts]
            assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
            assert [part.get("receipt") is not None for part in parts] == [False] * (len(parts) - 1) + [True]


def test_answers_go_on_beside_one_that_stalls(slow: tuple[World, Steps]) -> None:
    world, steps = slow
    steps.let(5)
    body = {"model": "latest", "messages": LONG, "stream": True}
    with world.http() as client, client.stream("POST", CHAT, json=body) as stalled:
        steps.let(1_000)  # for whoever takes them; nobody reads the first stream
        assert world.ask().json()["choices"][0]["message"]["content"] == HELLO[0]["content"]
        assert stalled.status_code == 200


def test_what_is_delivered_is_known_after_every_sixteen_tokens(slow: tuple[World, Steps]) -> None:
    world, steps = slow
    steps.let(1)  # a stream has its status with its first token
    body = {"model": "latest", "messages": LONG, "stream": True}
    with world.http() as client, client.stream("POST", CHAT, json=body) as response:
        request, events = response.headers["x-request-id"], events_of(response.iter_lines())
        next(events)  # the role
        for sixteen in range(1, 5):
            steps.let(16)
            for _ in range(16):
                next(events)
            wait_until(lambda sixteen=sixteen: world.row(request).delivered == 16 * sixteen)  # type: ignore[misc]
