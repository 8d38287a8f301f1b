"""Which model answers: aliases, retirement, adapters that appear while others run, and tenants that share nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from flock_ray.errors import UnknownAdapterError
from flock_ray.market.engines import EngineClient
from flock_ray.market.models import Model
from flock_ray.serving.request import Request
from flock_ray.serving.stream import Event
from tests.market.gateways import HELLO, Steps, World, adapter_bytes, check_receipt, error_of, gateway
from tests.waiting import wait_until


class Noted:
    """An engine client that notes what it is asked, and whose loads wait to be let on."""

    def __init__(self, inner: EngineClient) -> None:
        self.inner, self.limits, self.reserved = inner, inner.limits, inner.reserved
        self.requests: list[Request] = []
        self.loads: list[bytes] = []
        self.unloads: list[bytes] = []
        self.held: set[bytes] = set()
        self.forgotten: set[bytes] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def load(self, model: Model) -> None:
        self.loads.append(model.adapter)
        while model.adapter in self.held:
            await asyncio.sleep(0.002)
        self.forgotten.discard(model.adapter)
        await self.inner.load(model)

    async def unload(self, adapter: bytes) -> None:
        self.unloads.append(adapter)
        await self.inner.unload(adapter)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        if request.adapter in self.forgotten:
            raise UnknownAdapterError("no adapter of that hash is served here")
        async for event in self.inner.submit(request):
            yield event


def test_an_alias_that_moves_moves_the_next_answer_and_its_receipt(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Noted) as world:
        first, second = world.models
        assert world.ask().json()["model"] == first.id
        world.registry.set_alias("latest", second)
        body = world.ask().json()
        assert body["model"] == second.id and check_receipt(body, world).model == second.adapter
        assert [request.adapter for request in world.client.requests] == [first.adapter, second.adapter]


def test_a_price_that_changes_is_another_price_book(tmp_path: Path) -> None:
    from dataclasses import replace

    from flock_ray.market.models import Price
    from flock_ray.market.registry_index import Offering

    with gateway(tmp_path) as world:
        model = world.models[0]
        before = check_receipt(world.ask().json(), world)
        world.registry.set_price(model, Offering(Price(3, 7), model.split, model.host))
        after = check_receipt(world.ask().json(), world)
        assert after.price_book != before.price_book
        assert after.cost == after.prompt_tokens * 3 + after.output_tokens * 7
        assert replace(after, cost=0).model == before.model


def test_a_model_that_is_published_is_served_without_a_restart(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Noted) as world:
        new = world.publish(7)
        wait_until(lambda: new.adapter in world.client.loads)  # before anybody asks
        assert world.ask(model=new.id).json()["model"] == new.id
        assert world.client.loads.count(new.adapter) == 1


def test_an_answer_goes_on_while_its_model_is_retired(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Steps) as world:
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.append(world.ask(model=world.models[1].id)))
        asking.start()
        wait_until(lambda: world.client.running == 1)
        world.registry.retire(world.models[1])
        answer = world.ask(model=world.models[1].id)
        assert answer.status_code == 404 and "retired" in error_of(answer)["message"]
        world.client.let(1_000)
        asking.join()
        assert found[0].json()["choices"][0]["message"]["content"] == HELLO[0]["content"]
        assert check_receipt(found[0].json(), world).model == world.models[1].adapter


def test_a_retired_model_leaves_the_engine(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Noted) as world:
        gone = world.models[1]
        wait_until(lambda: gone.adapter in world.client.loads)
        world.registry.retire(gone)
        wait_until(lambda: gone.adapter in world.client.unloads)
        data = adapter_bytes(2)
        world.registry.publish(gone, data)
        assert world.ask(model=gone.id).status_code == 200


def test_an_adapter_that_loads_slowly_holds_nobody_up(tmp_path: Path) -> None:
    world = World(tmp_path, wrap=Noted)
    slow, quick = world.models
    world.client.held = {slow.adapter}
    with world.served():
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.append(world.ask(model=slow.id)))
        asking.start()
        wait_until(lambda: slow.adapter in world.client.loads)
        assert world.ask(model=quick.id).json()["model"] == quick.id and not found
        world.client.held = set()
        asking.join()
        assert found[0].json()["model"] == slow.id
        assert world.client.loads.count(slow.adapter) == 1  # whoever waited for it


def test_an_engine_that_was_started_anew_gets_the_adapter_again(tmp_path: Path) -> None:
    with gateway(tmp_path, wrap=Noted) as world:
        assert world.ask().status_code == 200
        world.client.forgotten = {world.models[0].adapter}
        assert world.ask().json()["model"] == world.models[0].id


def test_an_adapter_whose_file_changed_answers_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    path = world.registry.folder / "adapters" / f"{world.models[0].adapter.hex()}.safetensors"
    path.write_bytes(adapter_bytes(9))
    with world.served():
        answer = world.ask()
        assert answer.status_code == 500 and world.spent() == 0  # not the base, and not the other adapter
        assert world.ask(model=world.models[1].id).status_code == 200


def test_tenants_are_accounts_whatever_a_request_says(tmp_path: Path) -> None:
    from flock_ray.chain.keys import run_signer
    from tests.market.gateways import account_of

    with gateway(tmp_path, wrap=Noted) as world:
        _, other = world.new_key(account=account_of(run_signer(1, "another user")))
        for secret in (world.secret, other):
            assert world.ask(secret=secret, user="tenant", prompt_cache_key="tenant").status_code == 200
        tenants = [request.tenant for request in world.client.requests]
        assert len(set(tenants)) == 2


def test_a_gateway_without_models_says_so(tmp_path: Path) -> None:
    with gateway(tmp_path, models=0, base=None) as world, world.http() as client:
        assert client.get("/v1/models").json() == {"object": "list", "data": []}
        assert world.ask().status_code == 404
        assert client.get("/health").json()["models"] == 0
