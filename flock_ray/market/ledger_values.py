"""What the ledger is asked and answers: keys and their bounds, reservations, rows, usage.

Accounts are 20 bytes, hashes 32; amounts are integer units of the token (wei), times Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from flock_ray.chain.eip712 import Domain
from flock_ray.chain.usage import SignedReceipt
from flock_ray.errors import BusyError, RequestError
from flock_ray.protocol.receipt import Receipt


class RequestRunningError(BusyError):
    """A request with this idempotency key still runs: 409, try again later."""


class IdempotencyError(RequestError):
    """An idempotency key was used for another body: 422."""


@dataclass(frozen=True)
class Gateway:
    """Whose ledger this is: fixed with the first gateway process that binds it.

    Attributes:
        account: of the gateway.
        domain: chain and contract (`usage_domain`) that receipts and caps are signed for.
        lends: whether requests need a cap and a deposit (false: `money=none`, and nothing is ever settled).
    """

    account: bytes
    domain: Domain
    lends: bool


@dataclass(frozen=True)
class KeyTerms:
    """What a key may do.

    Attributes:
        account: that is charged.
        models: what it may ask: model ids (`name@hash8`), names (every version), or hashes as 64 hex digits; empty:
            every model.
        requests_per_minute: most requests in any 60 seconds.
        tokens_per_minute: most tokens in any 60 seconds: prompts, and answers as long as they may become until it is
            known how long they are.
        concurrent: most requests at once.
        budget: most that it is ever charged, units.
        expires: time from which it is refused; None: never.
    """

    account: bytes
    models: tuple[str, ...] = ()
    requests_per_minute: int = 600
    tokens_per_minute: int = 1_000_000
    concurrent: int = 8
    budget: int = (1 << 128) - 1
    expires: int | None = None

    def allows(self, model: bytes, model_id: str) -> bool:
        """Whether it may ask a model, by its hash and its id `name@hash8`."""
        names = {model.hex(), model_id, model_id.partition("@")[0]}
        return not self.models or not names.isdisjoint(self.models)


@dataclass(frozen=True)
class Key:
    """A key, without its secret.

    Attributes:
        id: names it in lists, logs and `revoke`; no secret.
        label: what its owner calls it.
        terms: what it may do.
        created_at: time.
        revoked_at: time; None: it is valid.
        spent: what it was charged so far, units; open reservations not among it.
    """

    id: str
    label: str
    terms: KeyTerms
    created_at: int
    revoked_at: int | None
    spent: int


@dataclass(frozen=True)
class Reservation:
    """A request before it runs.

    Attributes:
        request: id of the request, which is used once.
        model: hash of the adapter.
        model_id: `name@hash8`.
        price_book: hash of the price book.
        prices: units for a token of (prompt, output), as in the price book's offer.
        prompt: hash of what is asked, for the receipt.
        prompt_tokens: of the prompt.
        max_tokens: most tokens of the answer, all choices together.
        idempotency: key of the client's, or None.
        body_hash: hash of the request's body.
    """

    request: bytes
    model: bytes
    model_id: str
    price_book: bytes
    prices: tuple[int, int]
    prompt: bytes
    prompt_tokens: int
    max_tokens: int
    idempotency: str | None
    body_hash: bytes

    @property
    def tokens(self) -> int:
        """Most tokens of prompt and answer."""
        return self.prompt_tokens + self.max_tokens

    @property
    def cost(self) -> int:
        """Most that it may cost, units."""
        return self.prompt_tokens * self.prices[0] + self.max_tokens * self.prices[1]


class State(Enum):
    """Of a row: it runs; it was answered and has a receipt; it failed and costs nothing."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"


@dataclass(frozen=True)
class Row:
    """A request in the ledger: exactly one a request id.

    Attributes:
        reservation: as it was asked.
        key: id of the key.
        account: that is charged.
        state: see `State`.
        created_at: time of the reservation.
        ended_at: time of settlement or release; None while it runs.
        delivered: tokens of the answer that are known to be delivered.
        output: hash of what was delivered.
        finish_reason: why the answer ended; `interrupted`: its gateway died.
        error: why it was released.
        receipt: signed; None unless settled.
        answer: body of the answer, kept for a day with an idempotency key.
        batch: number of the batch that charges it, in the series of its price book; None: not yet, or it costs nothing.
    """

    reservation: Reservation
    key: str
    account: bytes
    state: State
    created_at: int
    ended_at: int | None
    delivered: int
    output: bytes
    finish_reason: str | None
    error: str | None
    receipt: SignedReceipt | None
    answer: bytes | None
    batch: int | None

    @property
    def cost(self) -> int:
        """What it is charged, units."""
        return self.receipt.receipt.cost if self.receipt else 0

    def receipt_for(self, gateway: bytes, used: Used) -> Receipt:
        """The receipt, to be signed, of an answer to this request."""
        asked, (prompt, output) = self.reservation, self.reservation.prices
        cost = used.prompt_tokens * prompt + used.output_tokens * output
        return Receipt(
            gateway=gateway, request=asked.request, account=self.account, model=asked.model, prompt=asked.prompt,
            output=used.output, prompt_tokens=used.prompt_tokens, output_tokens=used.output_tokens,
            price_book=asked.price_book, cost=cost,
        )  # fmt: skip


@dataclass(frozen=True)
class Replay:
    """A request was asked before, with this idempotency key and body: its row, which is settled.

    `row.answer` is None if it was streamed, or its gateway died.
    """

    row: Row


@dataclass(frozen=True)
class Used:
    """What an answer used; zero is billed as zero.

    Attributes:
        prompt_tokens: at most those reserved.
        output_tokens: at most those reserved.
        output: hash of the answer.
        finish_reason: why it ended.
        answer: its body, for a request with an idempotency key.
    """

    prompt_tokens: int
    output_tokens: int
    output: bytes
    finish_reason: str
    answer: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class UsageOfDay:
    """What a key used of a model on a day, of settled requests.

    Attributes:
        day: its first second (UTC).
        key: id of the key.
        model_id: `name@hash8`.
        requests: number of them.
        prompt_tokens: of them.
        output_tokens: of them.
        cost: units.
    """

    day: int
    key: str
    model_id: str
    requests: int
    prompt_tokens: int
    output_tokens: int
    cost: int


@dataclass(frozen=True)
class Balance:
    """What an account can still spend, units.

    Attributes:
        standing: deposit on chain that it did not ask back, when it was last seen.
        uncollected: charged and not collected on chain.
        reserved: by requests that run.
    """

    standing: int
    uncollected: int
    reserved: int

    @property
    def lendable(self) -> int:
        """What is left to lend; negative after a deposit was asked back."""
        return self.standing - self.uncollected - self.reserved
