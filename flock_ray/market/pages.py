"""The pages of a deployment: models with their lineage, playground, usage, runs. They load nothing from elsewhere.

Every page has a Content-Security-Policy under which only its own script runs. Names, documents and answers are others'
text: templates escape it, and scripts set it as text. No page holds a key.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from flock_ray.chain.words import format_tokens, rounded_tokens
from flock_ray.errors import UnknownModelError
from flock_ray.market.ledger import Ledger
from flock_ray.market.models import BASE
from flock_ray.market.page_views import lineage_of, model_facts, model_view, usage_of_models
from flock_ray.market.registry import Registry
from flock_ray.market.run_pages import RunView, run_page, run_views
from flock_ray.telemetry import text

MENU = (
    ("/", "Models"),
    ("/playground", "Playground"),
    ("/keys", "Keys and usage"),
    ("/runs", "Runs"),
    ("/docs", "API"),
)
VERIFY = "flock-ray verify RUN_DIR"
_HEADERS = {
    "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "X-Frame-Options": "DENY",
}  # fmt: skip
_OTHERS = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'; base-uri 'none'"
)
"""Of a run's own page, which needs no script: none runs."""


@dataclass(frozen=True)
class Pages:
    """What pages show.

    Attributes:
        registry: models.
        ledger: what they were used for.
        runs: folders of runs whose reports and leaderboards are shown.
    """

    registry: Registry
    ledger: Ledger
    runs: tuple[Path, ...] = ()


def add_pages(app: FastAPI, pages: Pages) -> None:
    """Mount the pages on a gateway's application."""
    router, show = APIRouter(include_in_schema=False), _Shown()

    @router.get("/")
    async def models() -> HTMLResponse:
        used = await asyncio.to_thread(usage_of_models, pages.ledger)
        snapshot = pages.registry.snapshot()
        return show("models", "/", models=[model_view(model, snapshot, used) for model in snapshot.models])

    @router.get("/models/{name}")
    async def model(name: str) -> HTMLResponse:
        snapshot = pages.registry.snapshot()
        try:
            found = snapshot.find(name)
        except UnknownModelError as error:
            return show("missing", "", 404, what=text.printable(str(error)))
        used = await asyncio.to_thread(usage_of_models, pages.ledger)
        return show(
            "model", "/", one=model_view(found, snapshot, used), retired=found.adapter in snapshot.retired,
            lineage=lineage_of(found, snapshot), facts=model_facts(found), verify=VERIFY,
        )  # fmt: skip

    @router.get("/playground")
    async def playground(model: str = "") -> HTMLResponse:
        snapshot = pages.registry.snapshot()
        ids = {one.adapter: one.id for one in snapshot.models}
        aliases = [(alias, ids[adapter]) for alias, adapter in sorted(snapshot.aliases.items())]
        choices = [*aliases, *((one, one) for one in ids.values()), (BASE, BASE)]
        return show("playground", "/playground", choices=choices, chosen=model)

    @router.get("/keys")
    async def keys() -> HTMLResponse:
        return show("keys", "/keys")

    @router.get("/runs")
    async def runs() -> HTMLResponse:
        return show("runs", "/runs", runs=await asyncio.to_thread(_runs, pages))

    @router.get("/runs/{task}/{page}")
    async def run(task: str, page: str) -> HTMLResponse:
        found = await asyncio.to_thread(run_page, pages.runs, task, page)
        if found is None:
            return show("missing", "", 404, what="There is no such page of a run here.")
        return HTMLResponse(found, headers=_HEADERS | {"Content-Security-Policy": _OTHERS})

    app.include_router(router)


def _runs(pages: Pages) -> list[RunView]:
    return run_views(pages.registry.snapshot(), pages.runs)


class _Shown:
    """Renders pages."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=ChoiceLoader([PackageLoader("flock_ray.market"), PackageLoader("flock_ray.telemetry")]),
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._environment.filters |= {"exact": format_tokens, "rounded": rounded_tokens}

    def __call__(self, name: str, here: str, status: int = 200, **values: Any) -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        template = self._environment.get_template(f"{name}.html.jinja")
        page = template.render(nonce=nonce, menu=MENU, here=here, **values)
        return HTMLResponse(page, status, headers=_HEADERS | _policy(nonce))


def _policy(nonce: str) -> dict[str, str]:
    """A policy under which the page's own style and script count, and nothing else."""
    parts = {
        "default-src": "'none'", "script-src": f"'nonce-{nonce}'", "style-src": f"'nonce-{nonce}'",
        "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'", "trusted-types": "'none'",
    }  # fmt: skip
    return {"Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in parts.items())}
