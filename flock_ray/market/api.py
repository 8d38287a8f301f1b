"""The gateway as one ASGI application: any ASGI server runs it, with Ray or without."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from flock_ray.chain.keys import Signer
from flock_ray.market import account_routes, completions, feedback_routes, knowledge_routes, model_routes, open_routes
from flock_ray.market.answer_models import ErrorBody
from flock_ray.market.api_errors import install_error_handlers
from flock_ray.market.body_limits import BodyLimits
from flock_ray.market.engines import EngineClient
from flock_ray.market.feedback import FeedbackStore
from flock_ray.market.knowledge import Knowledge
from flock_ray.market.ledger import Ledger
from flock_ray.market.metrics import Measured
from flock_ray.market.registry import Registry
from flock_ray.market.service import Service
from flock_ray.market.settings import Settings

VERSION = "1.0"  # of the API
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in (
        (400, "Malformed, unsupported, or too long."),
        (401, "No key, or an unknown, revoked or expired one."),
        (403, "The key may not ask this model."),
        (404, "No such model, receipt or source."),
        (409, "The idempotency key's request still runs, or its answer is not kept."),
        (413, "The body is too large."),
        (422, "The idempotency key was used for another body."),
        (429, "A rate, a budget, a cap or a deposit is used up, or the queue is full."),
        (500, "The answer failed; nothing was charged."),
        (503, "No engine answers, or the chain is away."),
    )
}


def create_app(
    registry: Registry,
    ledger: Ledger,
    engine: EngineClient,
    signer: Signer,
    settings: Settings,
    feedback: FeedbackStore | None = None,
    gateway: Signer | None = None,
) -> FastAPI:
    """The gateway's application.

    Args:
        registry: models that are served; looked at every `settings.poll_seconds`.
        ledger: keys, reservations, receipts; it is bound to this gateway, and stays open when the application ends.
        engine: answers.
        signer: the receipt key.
        settings: see there.
        feedback: where thumbs and corrections go; None: that route is off.
        gateway: key of the gateway's account, which signs price books; needed where `settings.lends`.

    Raises:
        ConfigError: a gateway that lends has no key of its account.
    """
    service = Service(registry, ledger, engine, signer, settings, gateway)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="flock_ray", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Models with their lineage, through OpenAI's API, with a signed receipt for every answer.",
        responses=_ERRORS,
    )  # fmt: skip
    app.state.service = service
    routers = [open_routes.router, model_routes.router, completions.router, account_routes.router]
    if settings.knowledge is not None:
        app.state.knowledge = Knowledge(settings.knowledge)
        routers.append(knowledge_routes.router)
    if feedback is not None:
        app.state.feedback = feedback
        routers.append(feedback_routes.router)
    for router in routers:
        app.include_router(router)
    install_error_handlers(app)
    app.add_middleware(BodyLimits, max_body=settings.max_body, seconds=settings.body_seconds)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"], expose_headers=["x-request-id", "retry-after"],
        )  # fmt: skip
    app.add_middleware(Measured, metrics=service.metrics)
    return app
