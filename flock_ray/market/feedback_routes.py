"""`/v1/feedback`: thumbs and corrections of answers that this gateway gave, and of nothing else.

The gateway keeps no texts. So feedback brings the conversation and the answer along, and they must have the hashes of
the answer's receipt: nobody teaches a model by answers that it never gave.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

from fastapi import Request
from pydantic import Field

from flock_ray.market.account_routes import row_of
from flock_ray.market.api_errors import ApiError
from flock_ray.market.feedback import MAX_TURNS, Feedback, FeedbackStore
from flock_ray.market.guard import key_router
from flock_ray.market.openai_types import Body, Message
from flock_ray.market.receipts import asked_hash
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.receipt import Receipt

router = key_router("Feedback")


class FeedbackBody(Body):
    """What a user says of an answer."""

    request: str = Field(max_length=100, description="Id of the answer, or of its receipt.")
    messages: list[Message] = Field(
        min_length=1, max_length=MAX_TURNS, description="As they were sent; of a completion its prompt as the user's."
    )
    answer: str = Field(description="As it was given.")
    rating: Literal[-1, 0, 1] = Field(0, description="A thumb; 0: none.")
    correction: str = Field("", description="The answer that would have been right.")
    consent: bool = Field(description="Whether models may be trained on it.")
    licence: str = Field("cc0-1.0", max_length=100, description="That it is given under.")


@router.post("/v1/feedback", summary="Say what an answer was worth", status_code=201)
async def feedback(body: FeedbackBody, request: Request) -> dict[str, Any]:
    """Of an answer to this key's account; saying something else later replaces it. It is kept encrypted."""
    row = await row_of(body.request, request)
    messages = [message.as_template() for message in body.messages]
    if row.receipt is None or not _same(row.receipt.receipt, messages, body.answer):
        message = "The conversation and the answer are not those of this request's receipt"
        raise ApiError(400, message, param="request", code="feedback_mismatch")
    said = Feedback(
        row.reservation.request, row.key, row.reservation.model, int(time.time()),
        tuple((one["role"], one["content"]) for one in messages), body.answer, body.rating, body.correction,
        body.consent, body.licence,
    )  # fmt: skip
    store: FeedbackStore = request.app.state.feedback
    new = await asyncio.to_thread(store.add, said)
    return {"object": "feedback", "request": to_hex(said.request), "new": new}


def _same(receipt: Receipt, messages: list[dict[str, str]], answer: str) -> bool:
    """Whether these are what a receipt has the hashes of; a completion's prompt has no roles."""
    asked = {asked_hash(messages), asked_hash([messages[0]["content"]]) if len(messages) == 1 else b""}
    return receipt.prompt in asked and receipt.output == sha256(answer.encode())
