"""Routes that need no key: health, figures, and the API's description."""

from __future__ import annotations

import asyncio
import json
from importlib.resources import files
from typing import Any

import jinja2
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from flock_ray.market.guard import service_of
from flock_ray.serving.engine import Stats

router = APIRouter(tags=["Operation"])
PATIENCE = 2.0  # seconds that an engine has to say how it is


async def _stats(request: Request) -> Stats | None:
    """What the engine is at; None if it does not answer."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await service_of(request).engine.stats()
    except Exception:
        return None


@router.get("/health", summary="Whether the gateway and its engine answer")
async def health(request: Request) -> JSONResponse:
    """200, or 503 while no engine answers."""
    stats = await _stats(request)
    found = {"status": "ok" if stats else "no engine", "models": len(service_of(request).catalogue.all())}
    return JSONResponse(found, 200 if stats else 503)


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """Requests, tokens, times, and what the engine is at; nothing of keys, accounts or texts."""
    page = service_of(request).metrics.page(await _stats(request))
    return Response(page, media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API's description as a page, which loads nothing from elsewhere."""
    schema: dict[str, Any] = request.app.openapi()
    return HTMLResponse(_page().render(schema=schema, operations=_operations(schema)))


def _page() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files("flock_ray.market").joinpath("templates/docs.html").read_text())


def _operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            body = content.get("schema", {})
            name = body.get("$ref", "").rpartition("/")[2]
            body = schema.get("components", {}).get("schemas", {}).get(name, body)
            found.append({
                "method": method.upper(), "path": path, "summary": operation.get("summary", ""),
                "description": operation.get("description", ""), "tag": operation.get("tags", [""])[0],
                "parameters": operation.get("parameters", []), "required": body.get("required", []),
                "body": {key: _told(value) for key, value in body.get("properties", {}).items()},
            })  # fmt: skip
    return found


def _told(value: dict[str, Any]) -> str:
    return json.dumps({key: item for key, item in value.items() if key != "title"}, ensure_ascii=False)
