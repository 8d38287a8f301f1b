"""Figures for Prometheus: nothing of keys, accounts or texts, and only models that are served as labels."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flock_ray.serving.engine import Stats

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
GONE = "499"
"""Status of a request whose client went away before it had one."""


class Metrics:
    """The figures of one gateway process."""

    def __init__(self) -> None:
        """All zero."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "flock_ray_requests", "Requests that ended.", ("route", "model", "status"), registry=registry
        )
        self.seconds = Histogram(
            "flock_ray_request_seconds", "From a request to the end of its answer.", ("route",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "flock_ray_first_token_seconds", "From a request to its first token.", ("model",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.tokens = Counter("flock_ray_tokens", "Tokens that were billed.", ("model", "kind"), registry=registry)
        self.open = Gauge("flock_ray_reserved_requests", "Requests that have a reservation.", registry=registry)
        self._engine = {
            name: Gauge(f"flock_ray_engine_{name}", f"The engine: {what}.", registry=registry)
            for name, what in (
                ("running", "answers that are being made"),
                ("waiting", "requests that wait"),
                ("steps", "passes over the model"),
                ("prompt_tokens", "tokens of prompts that it computed"),
                ("cached_tokens", "tokens of prompts that it had in its cache"),
                ("completion_tokens", "tokens that it handed on"),
                ("adapter_loads", "copies of an adapter into a slot"),
            )
        }

    def page(self, stats: Stats | None) -> bytes:
        """All figures in Prometheus' text format.

        Args:
            stats: of the engine; None when it does not answer.
        """
        for name, gauge in self._engine.items():
            gauge.set(float("nan") if stats is None else getattr(stats, name))
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware: counts requests by route, model and status, and times them."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Measure an application."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), GONE

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            model = scope.get("state", {}).get("model", "")
            self._metrics.requests.labels(route, model, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)
