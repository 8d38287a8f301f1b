"""What is charged: what was delivered, once, under a signed receipt; and by whose money."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from flock_ray.chain.keys import run_signer
from flock_ray.errors import ConfigError
from flock_ray.market.api import create_app
from flock_ray.market.engines import EngineClient
from flock_ray.market.ledger_values import State
from flock_ray.protocol.usage import Tables, charge
from flock_ray.serving.request import Request
from flock_ray.serving.stream import Event, Finished, FinishReason
from tests.market.entries import HOST, OWNER, PROTOCOL
from tests.market.gateways import (
    HELLO,
    RECEIPT_KEY,
    SIZE,
    USER,
    Steps,
    World,
    account_of,
    check_receipt,
    error_of,
    gateway,
    streamed,
)
from tests.waiting import wait_until

TOKEN = 10**18


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with gateway(tmp_path_factory.mktemp("gateway")) as world:
        yield world


def test_the_bill_is_the_sum_of_the_receipts(world: World) -> None:
    key, secret = world.new_key()
    bodies = [world.ask(secret=secret, max_tokens=number).json() for number in range(1, 6)]
    receipts = [check_receipt(body, world) for body in bodies]
    assert world.spent(key) == sum(receipt.cost for receipt in receipts) > 0
    with world.http(secret) as client:
        days = client.get("/v1/usage", params={"key": key.id}).json()["data"]
        assert [(day["requests"], day["cost"]) for day in days] == [(5, world.spent(key))]
        for body, receipt in zip(bodies, receipts, strict=True):
            for name in (body["id"], "0x" + receipt.request.hex(), receipt.request.hex()):
                found = client.get(f"/v1/receipts/{name}").json()
                assert found["receipt"] == body["receipt"] and found["state"] == "settled"
    book = world.registry.price_book(world.settings.gateway, PROTOCOL, (world.settings.base,))  # type: ignore[arg-type]
    tables = charge(Tables(), receipts, book, world.registry.leaf_tables())
    assert tables.charges == {account_of(USER): world.spent(key)} and tables.payouts[HOST] and tables.payouts[OWNER]


def test_receipts_of_others_are_not_shown(world: World) -> None:
    other = account_of(run_signer(1, "another user"))
    _, secret = world.new_key(account=other)
    mine = world.ask().json()
    with world.http(secret) as client:
        assert client.get(f"/v1/receipts/{mine['id']}").status_code == 404
        usage = client.get("/v1/usage").json()
        assert usage["data"] == [] and usage["account"] == "0x" + other.hex()


def test_a_reservation_is_the_worst_case_and_is_given_back(world: World) -> None:
    key, secret = world.new_key(budget=SIZE * 2 + 5 * 6)
    assert error_of(world.ask(secret=secret, max_tokens=6))["code"] == "insufficient_quota"
    assert world.ask(secret=secret, max_tokens=5).json()["usage"]["completion_tokens"] == 5
    assert world.spent(key) == key.terms.budget
    key, secret = world.new_key(budget=10 * (SIZE * 2 + SIZE * 6))
    for _ in range(5):  # each reserves half of what is left or less, and uses less
        assert world.ask(secret=secret, max_tokens=SIZE + 20).status_code == 200
    assert world.spent(key) == 5 * SIZE * 8


class Silent:
    """An engine client whose answers have no text, but tokens."""

    def __init__(self, inner: EngineClient) -> None:
        self.inner, self.limits, self.reserved = inner, inner.limits, inner.reserved
        self.tokens = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        async for event in self.inner.submit(request):
            if isinstance(event, Finished):
                yield Finished(FinishReason.STOP, event.prompt_tokens, 0, self.tokens)
            elif self.tokens and not event.prompt:
                yield replace(event, text="")
            elif event.prompt:
                yield event


@pytest.mark.parametrize("tokens", [0, SIZE])
def test_an_empty_answer_costs_nothing_and_zero_stays_zero(tmp_path: Path, tokens: int) -> None:
    with gateway(tmp_path, wrap=Silent) as world:
        world.client.tokens = tokens
        body = world.ask().json()
        assert body["usage"]["completion_tokens"] == tokens and body["usage"]["prompt_tokens"] == SIZE
        assert body["receipt"] is None and body["choices"][0]["finish_reason"] == "stop"
        *_, end, done = streamed(world)
        assert end["receipt"] is None and end["choices"][0]["finish_reason"] == "stop" and done == "[DONE]"
        row = world.row(body["id"].partition("-")[2])
        assert row.state is State.RELEASED and row.cost == 0
        assert world.spent() == 0 and world.ledger.usage(account_of(USER)) == []


def test_an_echo_alone_is_paid_as_a_prompt(world: World) -> None:
    body = world.ask("/v1/completions", model="latest", prompt="abc", echo=True, max_tokens=0, logprobs=0).json()
    assert body["choices"][0]["text"] == "abc" and body["usage"]["completion_tokens"] == 0
    receipt = check_receipt(body, world)
    assert (receipt.prompt_tokens, receipt.output_tokens, receipt.cost) == (3, 0, 6)


def test_a_repeated_request_is_answered_once_and_charged_once(world: World) -> None:
    key, secret = world.new_key()
    headers = {"Idempotency-Key": "order-17"}
    first = world.ask(secret=secret, headers=headers)
    again = world.ask(secret=secret, headers=headers)
    assert again.status_code == 200 and again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true" and "idempotent-replayed" not in first.headers
    assert world.spent(key) == check_receipt(first.json(), world).cost
    other = world.ask(secret=secret, headers=headers, max_tokens=1)
    assert other.status_code == 422 and error_of(other)["code"] == "idempotency_conflict"
    assert world.ask(headers=headers).json()["id"] != first.json()["id"]  # another key's
    for bad in ("", "a b", "x" * 256):
        assert world.ask(secret=secret, headers={"Idempotency-Key": bad}).status_code == 400


def test_a_repeated_stream_is_not_run_twice(world: World) -> None:
    key, secret = world.new_key()
    headers = {"Idempotency-Key": "stream-1"}
    assert world.ask(secret=secret, headers=headers, stream=True).status_code == 200
    spent = world.spent(key)
    again = world.ask(secret=secret, headers=headers, stream=True)
    assert again.status_code == 409 and error_of(again)["code"] == "idempotency_replayed"
    receipt = error_of(again)["message"].rpartition("/v1/receipts/")[2]
    with world.http(secret) as client:
        assert client.get(f"/v1/receipts/{receipt}").json()["receipt"]["receipt"]["cost"] == spent
    assert world.spent(key) == spent


def test_a_request_that_still_runs_is_not_run_again(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Steps) as world:
        headers, found = {"Idempotency-Key": "one"}, []
        asking = threading.Thread(target=lambda: found.append(world.ask(headers=headers)))
        asking.start()
        wait_until(lambda: world.client.running == 1)
        again = world.ask(headers=headers)
        assert again.status_code == 409 and error_of(again)["code"] == "idempotency_running"
        assert again.headers["retry-after"]
        world.client.let(100)
        asking.join()
        assert found[0].status_code == 200 and world.client.begun == 1


def test_a_failed_request_can_be_repeated(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Steps, answer_seconds=0.3) as world:
        headers = {"Idempotency-Key": "one"}
        assert world.ask(headers=headers).status_code == 504
        world.client.let(100)
        again = world.ask(headers=headers)
        assert again.status_code != 504


def test_64_clients_race_one_budget(world: World) -> None:
    cost = SIZE * 8
    key, secret = world.new_key(budget=20 * cost)

    async def race() -> list[int]:
        async with httpx2.AsyncClient(base_url=world.url, timeout=None, verify=False) as client:
            body = {"model": "latest", "messages": HELLO, "max_tokens": SIZE}

            async def one() -> int:
                answer = await client.post("/v1/chat/completions", json=body, headers={"x-api-key": secret})
                return answer.status_code

            return await asyncio.gather(*(one() for _ in range(64)))

    statuses = asyncio.run(race())
    assert set(statuses) <= {200, 429}
    assert world.spent(key) == statuses.count(200) * cost <= key.terms.budget
    assert statuses.count(200) >= 1


def test_at_most_so_many_at_once(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Steps) as world:
        _, secret = world.new_key(concurrent=1)
        asking = threading.Thread(target=lambda: world.ask(secret=secret))
        asking.start()
        wait_until(lambda: world.client.running == 1)
        answer = world.ask(secret=secret)
        assert answer.status_code == 429 and error_of(answer)["code"] == "rate_limit_exceeded"
        world.client.let(1_000)
        asking.join()
        assert world.ask(secret=secret).status_code == 200


def test_all_keys_of_an_account_share_what_it_may_ask_at_once(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Steps, account_concurrent=2) as world:
        secrets = [world.new_key()[1] for _ in range(3)]
        asking = [threading.Thread(target=world.ask, kwargs={"secret": secret}) for secret in secrets[:2]]
        for thread in asking:
            thread.start()
        wait_until(lambda: world.client.running == 2)
        answer = world.ask(secret=secrets[2])
        assert answer.status_code == 429 and "account has 2 requests at once" in error_of(answer)["message"]
        world.client.let(1_000)
        for thread in asking:
            thread.join()
        assert world.ask(secret=secrets[2]).status_code == 200


@pytest.fixture
def lending(tmp_path: Path) -> Iterator[World]:
    """A gateway that lends on a deposit that was seen on the chain; nobody has signed a cap yet."""
    world = World(tmp_path, lends=True, gateway_key=run_signer(1, "gateway"))
    with world.served():
        world.ledger.set_stake(100 * TOKEN, TOKEN)
        world.ledger.set_deposit(account_of(USER), 10_000, {})
        yield world


def cap_of(world: World, **query: Any) -> dict[str, Any]:
    with world.http() as client:
        found: dict[str, Any] = client.get("/v1/caps", params=query).json()
    return found


def hand_in(world: World, typed: dict[str, Any], signer: Any) -> Any:
    message = typed["message"]
    signed = Account.sign_message(encode_typed_data(full_message=typed), signer)
    body = {
        "price_book": message["priceBook"], "cumulative": int(message["cumulative"]), "expiry": int(message["expiry"]),
        "signature": "0x" + signed.signature.hex().removeprefix("0x"),
    }  # fmt: skip
    with world.http() as client:
        return client.post("/v1/caps", json=body)


def test_a_wallet_signs_what_the_gateway_shows_and_is_charged_no_more(lending: World) -> None:
    secret = USER._key.secret  # what a user's wallet holds
    assert error_of(lending.ask())["code"] == "insufficient_quota"  # no cap
    shown = cap_of(lending, cumulative=SIZE * 8)
    assert shown["cap"] is None and shown["typed_data"]["message"]["gateway"].lower() == shown["price_book"]["gateway"]
    assert hand_in(lending, shown["typed_data"], secret).status_code == 200
    body = lending.ask(max_tokens=SIZE).json()
    assert check_receipt({**body}, lending, gateway=lending.settings.gateway).cost == SIZE * 8
    answer = lending.ask(max_tokens=1)  # the cap is used up
    assert answer.status_code == 429 and "cap" in error_of(answer)["message"]
    raised = cap_of(lending, cumulative=SIZE * 80)
    assert raised["cap"]["cumulative"] == SIZE * 8
    assert hand_in(lending, raised["typed_data"], secret).status_code == 200
    assert lending.ask(max_tokens=1).status_code == 200


def test_a_deposit_that_does_not_last_is_told(lending: World) -> None:
    hand_in(lending, cap_of(lending, cumulative=TOKEN)["typed_data"], USER._key.secret)
    lending.ledger.set_deposit(account_of(USER), 10, {})
    answer = lending.ask()
    assert answer.status_code == 429 and "deposit" in error_of(answer)["message"]
    with lending.http() as client:
        assert client.get("/v1/usage").json()["balance"]["lendable"] == 10


def test_a_gateway_that_has_not_seen_its_chain_lends_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, lends=True, gateway_key=run_signer(1, "gateway"))
    with world.served():
        answer = world.ask()
        assert answer.status_code == 503 and error_of(answer)["code"] == "not_lending"
        assert int(answer.headers["retry-after"]) > 0


def test_caps_that_are_not_the_accounts_are_refused(lending: World) -> None:
    typed = cap_of(lending, cumulative=100)["typed_data"]
    secret = USER._key.secret
    stolen = hand_in(lending, typed, run_signer(1, "a thief")._key.secret)
    assert stolen.status_code == 400 and error_of(stolen)["code"] == "invalid_cap"
    for changed in ({"expiry": "1"}, {"priceBook": "0x" + "00" * 32}):
        answer = hand_in(lending, {**typed, "message": {**typed["message"], **changed}}, secret)
        assert answer.status_code == 400 and error_of(answer)["code"] == "invalid_cap"
    assert hand_in(lending, typed, secret).status_code == 200
    lower = {**typed, "message": {**typed["message"], "cumulative": "99"}}
    assert error_of(hand_in(lending, lower, secret))["code"] == "invalid_cap"
    with lending.http() as client:
        for body in ({}, {"price_book": "0x12", "cumulative": 1, "expiry": 1, "signature": "0x"}):
            assert client.post("/v1/caps", json=body).status_code == 400


def test_a_gateway_that_lends_needs_its_key(world: World) -> None:
    settings = replace(world.settings, lends=True)
    for key in (None, run_signer(1, "another")):
        with pytest.raises(ConfigError, match="key of its own account"):
            create_app(world.registry, world.ledger, world.client, RECEIPT_KEY, settings, gateway=key)


def test_a_cap_must_outlast_an_answer_and_its_settlement(world: World) -> None:
    settings = replace(world.settings, answer_seconds=600.0, cap_margin=1_499)
    with pytest.raises(ConfigError, match="cap_margin is 1499; it must be at least 1500"):
        replace(settings, lends=True)
    assert replace(settings, lends=True, cap_margin=1_500).lends


def test_nothing_of_a_request_is_kept_but_hashes(tmp_path: Path) -> None:
    with gateway(tmp_path) as world:
        words = "an unlikely sentence of a user"
        assert world.ask(messages=[{"role": "user", "content": words}]).status_code == 200
        assert world.ask(messages=[{"role": "user", "content": words}], stream=True, user="u-9999").status_code == 200
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "ledger.db" for path in kept)
    assert not any(words.encode() in path.read_bytes() or b"u-9999" in path.read_bytes() for path in kept)


def test_numbers_of_a_receipt_are_whole(world: World) -> None:
    raw = world.ask().text
    assert isinstance(json.loads(raw)["receipt"]["receipt"]["cost"], int)
