"""What the ledger is asked and answers: keys and their bounds, reservations, rows, usage.

Accounts are 20 bytes, hashes 32; amounts are integer units of the token (wei), times Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from flock_ray.chain.eip712 import Domain
from flock_ray.chain.usage import SignedReceipt
from flock_ray.errors import BusyError, ConfigError, KeyRefusedError, RequestError
from flock_ray.protocol.price_book import MAX_PRICE
from flock_ray.protocol.receipt import MAX_AMOUNT, Receipt

MAX_TOKENS = 1 << 31  # of a prompt, or of an answer
MAX_IDEMPOTENCY = 256  # characters


class RequestRunningError(BusyError):
    """A request with this idempotency key still runs: 409, try again later."""


class NotLendingError(BusyError):
    """The gateway's stake is too low, or the chain was not seen for too long: 503, nothing is wrong with the key."""


class IdempotencyError(RequestError):
    """An idempotency key was used for another body: 422."""


class CapError(RequestError):
    """A cap is not the account's, of another gateway or price book, expires too soon, or is below the former: 400."""


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
    budget: int = MAX_AMOUNT - 1
    expires: int | None = None

    def __post_init__(self) -> None:
        if len(self.account) != 20 or not all(self.models):
            raise ConfigError("a key has an account of 20 bytes, and models that have a name")
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
            if not 0 < getattr(self, name) < 1 << 63:
                raise ConfigError(f"{name} of a key is a number from 1 to 2^63 - 1, not {getattr(self, name)}")
        if not 0 <= self.budget < MAX_AMOUNT or not 0 <= (self.expires or 0) < 1 << 63:
            raise ConfigError("the budget of a key is below 2^128 units, the time that it expires at below 2^63")


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

    def check_model(self, model: bytes, model_id: str) -> None:
        """KeyRefusedError, if the key may not ask a model, by its hash and its id `name@hash8`."""
        names = {model.hex(), model_id, model_id.partition("@")[0]}
        if self.terms.models and names.isdisjoint(self.terms.models):
            raise KeyRefusedError(f"the key {self.id} may not ask {model_id}: {', '.join(self.terms.models)}")


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

    def __post_init__(self) -> None:
        hashes = (self.request, self.model, self.price_book, self.prompt, self.body_hash)
        assert all(len(value) == 32 for value in hashes), "hashes of a reservation are 32 bytes"
        assert all(0 <= price < MAX_PRICE for price in self.prices), "a price is out of bounds"
        if not 0 <= self.prompt_tokens < MAX_TOKENS or not 0 <= self.max_tokens < MAX_TOKENS:
            raise RequestError(f"a request has at most {MAX_TOKENS - 1} tokens, and as many of its answer")
        key = self.idempotency
        if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY and key.isprintable()):
            raise RequestError(f"an idempotency key has 1 to {MAX_IDEMPOTENCY} printable characters")

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
        begun: tokens of the prompts whose answers are known to have begun.
        output: hash of what was delivered.
        finish_reason: why the answer ended; `interrupted`: its gateway died.
        error: why it was released.
        receipt: signed; None unless settled.
        answer: body of the answer, kept for a day with an idempotency key.
        batch: number of the batch that charges it, in the series of its price book; None: not yet; 0: it costs nothing.
    """

    reservation: Reservation
    key: str
    account: bytes
    state: State
    created_at: int
    ended_at: int | None
    delivered: int
    begun: int
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
