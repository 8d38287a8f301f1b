"""`/v1/models`: what can be asked, at what price, and where it came from."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from fastapi import Request

from flock_ray.market.catalogue import Served
from flock_ray.market.guard import key_of, key_router, service_of
from flock_ray.market.service import may_ask
from flock_ray.protocol.encoding import to_hex

router = key_router("Models")


@router.get("/v1/models", summary="List the models that this key may ask")
async def models(request: Request) -> dict[str, Any]:
    """OpenAI's list, with prices, licences and lineage besides."""
    service, key = service_of(request), key_of(request)
    served = [one for one in service.catalogue.all() if may_ask(key, one)]
    aliases = service.catalogue.snapshot().aliases
    return {"object": "list", "data": [shown(one, _aliases_of(one, aliases)) for one in served]}


@router.get("/v1/models/{model:path}", summary="One model")
async def model(model: str, request: Request) -> dict[str, Any]:
    """The model of an id, an alias, a hash, or a name that only one has."""
    service = service_of(request)
    served = service.resolve(model, key_of(request))
    return shown(served, _aliases_of(served, service.catalogue.snapshot().aliases))


def _aliases_of(served: Served, aliases: Any) -> list[str]:
    return sorted(alias for alias, adapter in aliases.items() if adapter == served.adapter)


def shown(served: Served, aliases: list[str]) -> dict[str, Any]:
    """A model as OpenAI's object; its price in wei a token."""
    offer, entry = served.offer, served.entry
    found: dict[str, Any] = {
        "id": served.id, "object": "model", "created": 0, "owned_by": to_hex(offer.owner), "aliases": aliases,
        "hash": to_hex(offer.model), "price": {"prompt": offer.prompt, "output": offer.output},
        "split": {item.name: getattr(offer.split, item.name) for item in fields(offer.split)},
        "host": to_hex(offer.host), "price_book": to_hex(served.book.hash),
    }  # fmt: skip
    if entry is None:
        return found
    trained = datetime(entry.template_date.year, entry.template_date.month, entry.template_date.day, tzinfo=UTC)
    lineage = {item.name: getattr(entry.lineage, item.name) for item in fields(entry.lineage)}
    return found | {
        "created": int(trained.timestamp()), "base": to_hex(entry.base), "tokenizer": to_hex(entry.tokenizer),
        "context_length": entry.context_length,
        "lora": {"rank": entry.lora.rank, "alpha": entry.lora.alpha},
        "lineage": {name: to_hex(item) if isinstance(item, bytes) else item for name, item in lineage.items()},
        "licences": {**entry.licences.as_json(), "strictest": entry.licences.strictest},
    }  # fmt: skip
