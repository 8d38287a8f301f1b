"""Every error is an OpenAI error object with the status that is meant, and nothing of it is charged."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from flock_ray.serving.echo_engine import VOCABULARY, EchoEngine
from flock_ray.serving.request import Limits
from tests.market.gateways import HELLO, World, error_of, gateway
from tests.waiting import PATIENCE

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    engine = EchoEngine(Limits(512, VOCABULARY, 64, 256))
    folder = tmp_path_factory.mktemp("gateway")
    with gateway(folder, engine=engine, max_body=1 << 16, body_seconds=1.0) as world:
        yield world


@pytest.fixture(autouse=True)
def nothing_is_charged(world: World) -> Iterator[None]:
    before = world.spent()
    yield
    assert world.spent() == before
    assert "flock_ray_reserved_requests 0.0" in httpx2.get(f"{world.url}/metrics").text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"messages": [{"role": "user", "content": "a", "name": "x"}]}, "name"),
        ({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}, "tool_calls"),
        ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(world: World, body: dict[str, Any], param: str) -> None:
    answer = world.ask(**body)
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["code"] == "unsupported_parameter" and error["param"] == param and param in error["message"]


@pytest.mark.parametrize(("body", "param"), [({"best_of": 3}, "best_of"), ({"suffix": "x"}, "suffix"), ({"n": 2}, "n")])
def test_what_completions_do_not_support_is_refused_too(world: World, body: dict[str, Any], param: str) -> None:
    answer = world.ask("/v1/completions", model="latest", prompt="a", **body)
    assert answer.status_code == 400 and error_of(answer)["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 0.001}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, None),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop.0"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, None),
        ({"stream_options": {"include_usage": True}}, None),
        ({"seed": 1 << 70}, "seed"),
        ({"stream": "yes"}, "stream"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(world: World, body: dict[str, Any], param: str | None) -> None:
    answer = world.ask(**body)
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert error["param"] == param and error["type"] == "invalid_request_error" and error["code"] == "invalid_value"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "x" * 600}]},
        {"max_tokens": 1_000_000},  # a million tokens are refused before anything is reserved
        {"max_tokens": 500},
    ],
)
def test_what_is_longer_than_the_context_is_refused(world: World, body: dict[str, Any]) -> None:
    answer = world.ask(**body)
    assert answer.status_code == 400 and error_of(answer)["code"] == "context_length_exceeded"


@pytest.mark.parametrize("prompt", [[], "", [[]], [0, 256], [-1], [1.5], {"a": 1}, [["a"]], ["a"] * 65, [True]])
def test_wrong_prompts_are_refused(world: World, prompt: Any) -> None:
    answer = world.ask("/v1/completions", model="latest", prompt=prompt)
    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"model": NaN}', b"[" * 60_000, b'"text"',
        json.dumps({"model": "latest", "messages": [{"role": "user", "content": "\ud800"}]}).encode(),
    ],
)  # fmt: skip
def test_a_malformed_body_is_refused(world: World, body: bytes) -> None:
    with world.http() as client:
        answer = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error_of(answer)


def test_another_content_type_is_refused(world: World) -> None:
    body = json.dumps({"model": "latest", "messages": HELLO}).encode()
    with world.http() as client:
        answer = client.post(CHAT, content=body, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 400 and error_of(answer)["code"] == "invalid_json"


def test_a_large_body_is_refused_before_it_is_read_whole(world: World) -> None:
    with world.http() as client:
        answer = client.post(CHAT, json={"model": "latest", "messages": [{"role": "user", "content": "x" * (1 << 17)}]})
        assert answer.status_code == 413 and error_of(answer)["code"] == "request_too_large"

        def chunks() -> Iterator[bytes]:
            for _ in range(40):
                yield b" " * 4_096

        answer = client.post(CHAT, content=chunks(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413 and error_of(answer)["code"] == "request_too_large"


def test_half_a_request_that_never_goes_on_is_ended(world: World) -> None:
    port = int(world.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as half:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {world.secret}\r\n"
        half.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        answer = half.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"code":"request_timeout"' in answer


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer fr-wrong"}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer fr-" + "A" * 43}, 401, "invalid_api_key"),
        ({"Authorization": "Basic abc"}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer"}, 401, "invalid_api_key"),
        ({"x-api-key": "\u00e9"}, 401, "invalid_api_key"),
        ({"x-api-key": "a" * 5_000}, 401, "invalid_api_key"),
        ({"x-api-key": "one", "x-litellm-api-key": "two"}, 400, "conflicting_api_keys"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_told_before_the_body_is_looked_at(
    world: World, headers: dict[str, str], status: int, code: str
) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = httpx2.post(f"{world.url}{CHAT}", content=b"{", headers=encoded)
    assert answer.status_code == status and error_of(answer)["code"] == code


def test_a_stolen_key_that_was_revoked_is_refused_at_once(world: World) -> None:
    key, secret = world.new_key()
    assert world.ask(secret=secret, max_tokens=1).status_code == 200
    world.ledger.keys.revoke(key.id)
    answer = world.ask(secret=secret)
    assert answer.status_code == 401 and error_of(answer)["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        world.openai(secret).models.list()


def test_an_expired_key_is_refused(world: World) -> None:
    _, secret = world.new_key(expires=1)
    assert world.ask(secret=secret).status_code == 401


def test_a_key_for_one_model_asks_no_other(world: World) -> None:
    _, secret = world.new_key(models=(world.models[1].id,))
    answer = world.ask(secret=secret)
    assert answer.status_code == 403 and error_of(answer)["code"] == "model_not_allowed"
    assert [model.id for model in world.openai(secret).models.list()] == [world.models[1].id]
    with pytest.raises(openai.PermissionDeniedError):
        world.openai(secret).models.retrieve("latest")


@pytest.mark.parametrize("path", ["/v2/chat", "/", "/v1/engines"])
def test_an_unknown_route_is_404(world: World, path: str) -> None:
    with world.http() as client:
        answer = client.get(path)
    assert answer.status_code == 404 and error_of(answer)["code"] == "unknown_url"


def test_a_wrong_method_is_405(world: World) -> None:
    with world.http() as client:
        answer = client.get(CHAT)
    assert answer.status_code == 405
    assert error_of(answer)["code"] == "method_not_allowed" and answer.headers["allow"] == "POST"


def test_an_unknown_model_is_404(world: World) -> None:
    answer = world.ask(model="another")
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "model_not_found" and "latest" in error_of(answer)["message"]


def test_too_many_requests_say_when_to_come_back(world: World) -> None:
    _, secret = world.new_key(requests_per_minute=1)
    assert world.ask(secret=secret, max_tokens=1).status_code == 200
    answer = world.ask(secret=secret)
    assert answer.status_code == 429 and error_of(answer)["code"] == "rate_limit_exceeded"
    assert 1 <= int(answer.headers["retry-after"]) <= 62
    with pytest.raises(openai.RateLimitError):
        world.openai(secret).chat.completions.create(model="latest", messages=HELLO)  # type: ignore[arg-type]


def test_more_tokens_than_a_minute_has_are_never_asked_again(world: World) -> None:
    _, secret = world.new_key(tokens_per_minute=10)
    answer = world.ask(secret=secret)
    assert answer.status_code == 429 and answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


def test_a_budget_that_does_not_last_is_insufficient_quota(world: World) -> None:
    _, secret = world.new_key(budget=10)
    answer = world.ask(secret=secret)
    assert answer.status_code == 429 and error_of(answer)["code"] == "insufficient_quota"
    assert error_of(answer)["type"] == "insufficient_quota" and answer.headers["x-should-retry"] == "false"


def test_wrong_queries_and_ids_are_refused(world: World) -> None:
    with world.http() as client:
        answer = client.get("/v1/usage", params={"since": "yesterday"})
        assert answer.status_code == 400 and error_of(answer)["param"] == "since"
        for name in ("x", "0x12", "chatcmpl-" + "0" * 64):
            answer = client.get(f"/v1/receipts/{name}")
            assert answer.status_code == 404 and error_of(answer)["code"] == "receipt_not_found"


def test_errors_never_repeat_what_was_asked(world: World) -> None:
    secret_text = "a private sentence"
    for body in (
        {"messages": [{"role": secret_text, "content": secret_text}]},
        {"messages": [{"role": "user", "content": secret_text * 100}]},
        {"messages": [{"role": "user", "content": {"x": secret_text}}]},
        {"temperature": secret_text},
    ):
        answer = world.ask(**body)
        assert answer.status_code == 400 and secret_text not in answer.text


def test_a_registry_that_cannot_be_read_leaves_the_gateway_as_it_was(tmp_path: Path) -> None:
    with gateway(tmp_path) as world:
        index = world.registry.folder / "registry.json"
        kept = index.read_bytes()
        index.write_bytes(b"damaged")
        assert world.ask().status_code == 200
        index.write_bytes(kept)
        assert world.ask().status_code == 200
