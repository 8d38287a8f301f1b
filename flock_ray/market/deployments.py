"""Ray Serve at the edge: engines and gateways as deployments, and an engine as a gateway sees it from afar.

A gateway asks for no CPU and an engine for one or more, or a GPU: on two CPUs a node group of a task still fits beside
them. Any engine answers with any adapter of the registry: it loads what it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from flock_ray.errors import FlockRayError, ServeError
from flock_ray.market.engine_plan import EnginePlan
from flock_ray.market.engines import AwayError
from flock_ray.market.gateway_plan import GatewayPlan, require_free
from flock_ray.market.registry import Registry
from flock_ray.serving.engine import Stats
from flock_ray.serving.request import Limits, Request, Tokens
from flock_ray.serving.stream import Event, Finished, FinishReason, Token

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve.handle import DeploymentHandle

    from flock_ray.market.engines import Events
    from flock_ray.market.models import Model
    from flock_ray.training.chat_template import Messages

APPLICATION = "flock-ray"
ACCEPT_SECONDS = 30.0
"""What an engine may take to accept a request, its adapter read from disk included; after that it counts as away."""
DRAIN_SECONDS = 60.0
"""What answers that are being made have to end, once the deployment ends."""
_STARTS = 2  # of a replica that fails to start
_OTHERS = 256  # calls to an engine beside answers: prompts, adapters, statistics
_CLIENTS = 4_096  # requests at a gateway at once; what is too much for the engines is refused by them
_QUIET = {"enable_access_log": False, "log_level": "ERROR"}


class EngineReplica:
    """One resident base model, with whatever adapters it is asked for."""

    def __init__(self, plan: EnginePlan, registry: str) -> None:
        """Load the base model; `registry` is the folder of the registry, as this machine sees it.

        Raises:
            FlockRayError: the model does not load, or is another than the plan's.
        """
        self._registry = Registry.open(Path(registry))
        self._plan, self._engine = plan, plan.start()
        self._loads: dict[bytes, asyncio.Task[None]] = {}

    async def facts(self) -> tuple[Limits, tuple[str, ...]]:
        """What the engine can do at most, and its reserved texts."""
        return self._engine.limits, self._engine.reserved

    async def render(self, messages: Messages, tools: Sequence[Any]) -> Tokens:
        """See `Engine.render`."""
        return await asyncio.to_thread(self._engine.render, messages, tools)

    async def encode(self, text: str) -> Tokens:
        """See `Engine.encode`."""
        return await asyncio.to_thread(self._engine.encode, text)

    async def load(self, adapter: bytes) -> None:
        """Know an adapter of the registry; read once, however many ask for it, while others are answered.

        Raises:
            RegistryError, AdapterError: it is not served, or does not fit the base model.
        """
        task = self._loads.get(adapter)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._loads[adapter] = asyncio.ensure_future(asyncio.to_thread(self._add, adapter))
        await asyncio.shield(task)

    def _add(self, adapter: bytes) -> None:
        model = self._registry.resolve(adapter.hex())
        self._plan.check(model)
        self._engine.add_adapter(self._registry.source(model))

    async def unload(self, adapter: bytes) -> None:
        """Forget an adapter."""
        self._loads.pop(adapter, None)
        await asyncio.to_thread(self._engine.discard_adapter, adapter)

    async def answer(self, request: Request) -> AsyncGenerator[list[Event], None]:
        """Events of an answer, as they come: none for a request that is accepted, then the first at once.

        Later ones are gathered, since handing on costs as much as making a token. Cancelling this ends the answer
        within one step.
        """
        if request.adapter is not None:
            await self.load(request.adapter)
        seconds = 0.0
        with self._engine.submit(request) as stream:
            yield []
            while events := await stream.gather(seconds):
                yield events
                seconds = self._plan.gather

    async def stats(self) -> Stats:
        """See `Engine.stats`."""
        return self._engine.stats()

    def check_health(self) -> None:
        """For Serve, which starts another replica in the place of one that fails here."""
        if self._engine.closed:
            raise ServeError("the engine ended")

    def __del__(self) -> None:
        if engine := getattr(self, "_engine", None):
            engine.close()


class Served:
    """An engine behind Ray Serve, whichever of its replicas answers; see `EngineClient`."""

    def __init__(self, handle: DeploymentHandle, limits: Limits, reserved: tuple[str, ...]) -> None:
        """Use `connect`."""
        self.limits, self.reserved = limits, reserved
        self._handle = handle
        self._answers = handle.options(method_name="answer", stream=True)

    @classmethod
    async def connect(cls, handle: DeploymentHandle) -> Served:
        """Wait until a replica runs."""
        return cls(handle, *await _asked(handle.facts.remote()))

    async def prompt(self, messages: Messages, tools: Sequence[Any] = ()) -> Tokens:
        """See `EngineClient`."""
        tokens: Tokens = await _asked(self._handle.render.remote(messages, tools))
        return tokens

    async def encode(self, text: str) -> Tokens:
        """See `EngineClient`."""
        tokens: Tokens = await _asked(self._handle.encode.remote(text))
        return tokens

    async def load(self, model: Model) -> None:
        """See `EngineClient`: one replica tries whether it fits; each loads it again when it is asked for it."""
        await _asked(self._handle.load.remote(model.adapter))

    async def unload(self, adapter: bytes) -> None:
        """See `EngineClient`."""
        await _asked(self._handle.broadcast("unload", adapter).results_async())

    async def stats(self) -> Stats:
        """See `EngineClient`; of all replicas together."""
        return total(await _asked(self._handle.broadcast("stats").results_async()))

    async def submit(self, request: Request) -> Events:
        """See `EngineClient`; an answer whose replica dies ends with an error, and what came before it stands."""
        self.limits.check(request)
        answer = self._answers.remote(request)
        made, ended = 0, False
        try:
            await _asked(asyncio.wait_for(anext(answer), ACCEPT_SECONDS))
            while not ended:
                try:
                    events: list[Event] = await anext(answer)
                except (RayError, RayServeException, StopAsyncIteration):
                    ended = True
                    yield _lost(request, made)
                    return
                for event in events:
                    made += isinstance(event, Token) and not event.prompt
                    ended = isinstance(event, Finished)
                    yield event
        finally:
            if not ended:
                answer.cancel()


async def _asked(answer: Awaitable[Any]) -> Any:
    """What an engine answers.

    Raises:
        FlockRayError: as the engine raised it.
        AwayError: no replica answers.
    """
    try:
        return await answer
    except RayTaskError as error:
        cause = error.cause
    except (RayError, RayServeException, TimeoutError, StopAsyncIteration) as error:
        cause = error
    if isinstance(cause, FlockRayError):
        raise cause
    raise AwayError("no engine answers now; it is being started again")


def _lost(request: Request, made: int) -> Finished:
    """The end of an answer whose engine is gone."""
    return Finished(FinishReason.ERROR, len(request.prompt), 0, made, error="the engine ended while it answered")


def total(each: Sequence[Stats]) -> Stats:
    """Of several engines together."""
    return Stats(**{name: sum(getattr(stats, name) for stats in each) for name in Stats.__dataclass_fields__})


class GatewayReplica:
    """The API, its pages and its ledger, before the engines."""

    async def __init__(self, engine: DeploymentHandle, plan: GatewayPlan) -> None:  # type: ignore[misc]  # Serve awaits it
        """Open registry and ledger, and wait until an engine runs."""
        self._app = plan.app(await Served.connect(engine))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """For Serve."""
        return self._app


@dataclass(frozen=True)
class Deployment:
    """What is deployed.

    Attributes:
        engine: each of them.
        engines: how many.
        cpus, gpus: that each asks for.
        gateway: each of them.
        gateways: how many.
        host, port: where they are reached.
    """

    engine: EnginePlan
    engines: int
    cpus: int
    gpus: int
    gateway: GatewayPlan
    gateways: int
    host: str
    port: int

    def application(self) -> serve.Application:
        """For Serve."""
        threads = {"env_vars": {"OMP_NUM_THREADS": str(self.engine.threads)}}
        common = {
            "graceful_shutdown_timeout_s": DRAIN_SECONDS, "graceful_shutdown_wait_loop_s": 0.2,
            "max_constructor_retry_count": _STARTS, "health_check_timeout_s": 60, "logging_config": _QUIET,
        }  # fmt: skip
        engine = serve.deployment(
            EngineReplica, name="engine", num_replicas=self.engines,
            max_ongoing_requests=self.engine.rows + self.engine.waiting + _OTHERS,
            ray_actor_options={"num_cpus": self.cpus, "num_gpus": self.gpus, "runtime_env": threads}, **common,
        ).bind(self.engine, self.gateway.registry)  # fmt: skip
        one_thread = {"env_vars": {"OMP_NUM_THREADS": "1"}}
        return serve.deployment(
            serve.ingress()(GatewayReplica), name="gateway", num_replicas=self.gateways, max_ongoing_requests=_CLIENTS,
            ray_actor_options={"num_cpus": 0, "runtime_env": one_thread, "resources": self._place()}, **common,
        ).bind(engine, self.gateway)  # fmt: skip

    def _place(self) -> dict[str, float]:
        """Resources that keep gateways on this machine, where their ledger is a file of it."""
        own = self.gateway.ledger.startswith("sqlite")
        return {f"node:{ray.util.get_node_ip_address()}": 0.001} if own else {}


@contextmanager
def deployed(what: Deployment, wait: Callable[[Callable[[], bool]], None], forget: bool) -> Iterator[None]:
    """Serve it for the length of a block, on the Ray that this process belongs to; in the end answers are drained.

    Ray Serve itself stays with its cluster.

    Args:
        what: is deployed.
        wait: waits until something holds, as long as it may take.
        forget: whether draining is left to Serve in the end, for who has no time.

    Raises:
        ServeError: something else is served there already, or what is to be served does not start.
    """
    logging.getLogger("ray.serve").disabled = True  # it tells each step, whatever its level is
    if not _serve_runs():
        require_free(what.host, what.port)
    try:
        serve.start(
            proxy_location="HeadOnly", http_options={"host": what.host, "port": what.port}, logging_config=_QUIET
        )
        serve.run_many(
            [serve.RunTarget(what.application(), APPLICATION, "/", _QUIET)],
            wait_for_ingress_deployment_creation=False, wait_for_applications_running=False,
        )  # fmt: skip
        wait(_runs)
        yield
    finally:
        serve.delete(APPLICATION, _blocking=not forget)


def _serve_runs() -> bool:
    """Whether Serve runs here already.

    Raises:
        ServeError: with something at our place.
    """
    found = serve.status()
    if APPLICATION in found.applications:
        raise ServeError("this cluster serves a deployment already; end it: Ctrl-C, ray job stop, or serve shutdown")
    return bool(found.proxies)


def _runs() -> bool:
    """Whether all replicas run.

    Raises:
        ServeError: one does not start.
    """
    found = serve.status().applications.get(APPLICATION)
    if found is None or found.status in ("NOT_STARTED", "DEPLOYING"):
        return False
    if found.status != "RUNNING":
        raise ServeError(f"what is to be served does not start: {_reason(found)}")
    return True


def _reason(found: Any) -> str:
    """The line of an error in what Serve tells of an application, which holds tracebacks."""
    told = "\n".join([found.message, *(each.message for each in found.deployments.values())])
    lines = [line.strip() for line in told.splitlines() if "Error: " in line]
    return lines[-1].rpartition("flock_ray.errors.")[2] if lines else " ".join(told.split())[:500]
