"""The gateway as one ASGI application: any ASGI server runs it, with Ray or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from flock_ray.market.engines import EngineClient
from flock_ray.market.settings import Settings

if TYPE_CHECKING:
    from flock_ray.chain.keys import Signer
    from flock_ray.market.feedback import FeedbackStore
    from flock_ray.market.ledger import Ledger
    from flock_ray.market.registry import Registry


def create_app(
    registry: Registry,
    ledger: Ledger,
    engine: EngineClient,
    signer: Signer,
    settings: Settings,
    feedback: FeedbackStore | None = None,
) -> FastAPI:
    """The gateway's application.

    Args:
        registry: models that are served; looked at every `settings.poll_seconds`.
        ledger: keys, reservations, receipts.
        engine: answers.
        signer: the receipt key.
        settings: see there.
        feedback: where thumbs and corrections go; None: that route is off.
    """
    raise NotImplementedError
