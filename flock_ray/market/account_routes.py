"""What an account used, its receipts, and the caps that it signs."""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec
from fastapi import Query, Request
from pydantic import Field

from flock_ray.chain.eip712 import CAP_TYPE, DOMAIN_TYPE, NAME, VERSION, Domain
from flock_ray.chain.usage import SignedCap, account_text
from flock_ray.market.api_errors import ApiError
from flock_ray.market.guard import key_of, key_router, service_of
from flock_ray.market.ledger_values import Row
from flock_ray.market.openai_types import Body
from flock_ray.market.receipts import shown
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.receipt import MAX_AMOUNT, Cap

router = key_router("Account")
CAP_SECONDS = 30 * 86_400  # that a cap is valid for, unless its user says otherwise
_REQUEST = re.compile(r"(?:chatcmpl-|cmpl-|rag-|0x)?([0-9a-f]{64})")


@router.get("/v1/usage", summary="What this key's account used")
async def usage(
    request: Request,
    since: int = Query(0, ge=0, lt=1 << 40, description="Unix time: from the day of it on (UTC)."),
    key: str | None = Query(None, max_length=64, description="Only of the key with this id."),
) -> dict[str, Any]:
    """Tokens and cost in wei by day, key and model, and what the account can still spend where it pays by deposit."""
    service, account = service_of(request), key_of(request).terms.account
    days = await service.book(service.ledger.usage, account, since, key)
    found: dict[str, Any] = {
        "object": "list", "account": to_hex(account), "key": key_of(request).id,
        "data": [
            {
                "day": one.day, "key": one.key, "model": one.model_id, "requests": one.requests,
                "prompt_tokens": one.prompt_tokens, "completion_tokens": one.output_tokens, "cost": one.cost,
            }
            for one in days
        ],
    }  # fmt: skip
    if service.settings.lends:
        balance = await service.book(service.ledger.balance, account)
        found["balance"] = {
            "standing": balance.standing, "uncollected": balance.uncollected, "reserved": balance.reserved,
            "lendable": balance.lendable,
        }  # fmt: skip
    return found


@router.get("/v1/receipts/{id}", summary="The receipt of an answer")
async def receipt(id: str, request: Request) -> dict[str, Any]:
    """Of a request of this key's account, by its id: that of the answer, or of the header `x-request-id`."""
    row = await row_of(id, request)
    return {
        "id": to_hex(row.reservation.request), "object": "receipt", "state": row.state.value,
        "model": row.reservation.model_id, "created": row.created_at, "ended": row.ended_at,
        "finish_reason": row.finish_reason, "batch": row.batch, "receipt": shown(row.receipt),
    }  # fmt: skip


async def row_of(id: str, request: Request) -> Row:
    """The ledger's row of a request of this key's account.

    Raises:
        ApiError: it has no such request.
    """
    named, service = _REQUEST.fullmatch(id), service_of(request)
    row = await service.book(service.ledger.row, bytes.fromhex(named[1])) if named else None
    if row is None or row.account != key_of(request).terms.account:
        raise ApiError(404, "This account has no such request", param="id", code="receipt_not_found")
    return row


class CapBody(Body):
    """A cap that the key's account signed."""

    price_book: str = Field(pattern="^0x[0-9a-f]{64}$")
    cumulative: int = Field(ge=0, lt=MAX_AMOUNT, description="Most that all answers under this price book cost, wei.")
    expiry: int = Field(ge=0, lt=1 << 64, description="Unix time.")
    signature: str = Field(pattern="^0x[0-9a-fA-F]{130}$", description="EIP-712: r || s || v, 65 bytes.")


@router.get("/v1/caps", summary="What is to be signed for a cap")
async def cap_to_sign(
    request: Request,
    cumulative: int | None = Query(None, ge=0, lt=MAX_AMOUNT, description="Wei; by default that of the cap there is."),
    expiry: int | None = Query(None, ge=0, lt=1 << 64, description="Unix time; by default in 30 days."),
) -> dict[str, Any]:
    """EIP-712 typed data, for any wallet; the price book that it names; and the cap that there is."""
    service, account = service_of(request), key_of(request).terms.account
    book, settings = service.catalogue.book(), service.settings
    await service.publish(book)  # a cap names a price book that is in force
    signed = await service.book(service.ledger.caps.get, account, book.hash)
    known = 0 if signed is None else signed.cap.cumulative
    until = expiry if expiry is not None else int(time.time()) + CAP_SECONDS
    cap = Cap(account, settings.gateway, book.hash, known if cumulative is None else cumulative, until)
    return {
        "object": "cap", "typed_data": typed_data(settings.domain, cap),
        "price_book": msgspec.json.decode(book.to_bytes()),
        "cap": None if signed is None else {
            "cumulative": signed.cap.cumulative, "expiry": signed.cap.expiry, "signature": to_hex(signed.signature)
        },
    }  # fmt: skip


@router.post("/v1/caps", summary="Hand in a signed cap")
async def store_cap(body: CapBody, request: Request) -> dict[str, Any]:
    """In the place of the former one of this account and price book; caps only grow."""
    service, account = service_of(request), key_of(request).terms.account
    cap = Cap(account, service.settings.gateway, bytes.fromhex(body.price_book[2:]), body.cumulative, body.expiry)
    signature = bytes.fromhex(body.signature[2:])
    await service.book(service.ledger.caps.store, SignedCap(cap, signature))
    return {"object": "cap", "price_book": body.price_book, "cumulative": body.cumulative, "expiry": body.expiry}


def typed_data(domain: Domain, cap: Cap) -> dict[str, Any]:
    """What `eth_signTypedData_v4` takes; numbers as decimal text, since they may be above 2^53."""
    return {
        "types": {"EIP712Domain": _members(DOMAIN_TYPE), "Cap": _members(CAP_TYPE)},
        "primaryType": "Cap",
        "domain": {
            "name": NAME, "version": VERSION, "chainId": domain.chain_id, "verifyingContract": domain.contract,
        },
        "message": {
            "account": account_text(cap.account), "gateway": account_text(cap.gateway),
            "priceBook": to_hex(cap.price_book), "cumulative": str(cap.cumulative), "expiry": str(cap.expiry),
        },
    }  # fmt: skip


def _members(type_text: str) -> list[dict[str, str]]:
    """Members of an EIP-712 type, from its text."""
    inside = type_text.partition("(")[2].removesuffix(")")
    pairs = (member.split(" ") for member in inside.split(","))
    return [{"name": name, "type": kind} for kind, name in pairs]
