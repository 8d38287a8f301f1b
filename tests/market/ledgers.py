"""A ledger as a gateway uses it, without a chain: keys, reservations and receipts of made-up requests."""

from __future__ import annotations

from flock_ray.chain.eip712 import cap_digest, price_book_digest, receipt_digest, usage_domain
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.usage import SignedCap, SignedReceipt
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import Gateway, Key, KeyTerms, Reservation, Row, Used
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.price_book import LeafTable, Offer, PriceBook, Split
from flock_ray.protocol.receipt import Cap, Receipt

DOMAIN = usage_domain(31_337, "0x" + "5a" * 20)
GATEWAY = run_signer(1, "gateway")
USER = run_signer(1, "user")
RECEIPT_KEY = run_signer(1, "receipts")
MODEL, BOOK = b"\x07" * 32, b"\x08" * 32
PRICES = (2, 6)
NOON = 1_800_000_000  # a time
CAP_MARGIN = 3_600


def account(signer: Signer) -> bytes:
    return bytes.fromhex(signer.address[2:])


class Clock:
    """A clock that tests set."""

    def __init__(self, now: int = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return float(self.now)


def free_gateway() -> Gateway:
    """One that asks for no deposits and no caps."""
    return Gateway(account(GATEWAY), DOMAIN, lends=False)


def lending_gateway() -> Gateway:
    return Gateway(account(GATEWAY), DOMAIN, lends=True)


def sign(receipt: Receipt) -> SignedReceipt:
    return SignedReceipt(receipt, account(RECEIPT_KEY), RECEIPT_KEY.sign_digest(receipt_digest(DOMAIN, receipt)))


def opened(
    url: str, clock: Clock | None = None, gateway: Gateway | None = None, account_concurrent: int = 32,
    cap_margin: int = CAP_MARGIN,
) -> Ledger:  # fmt: skip
    """A ledger in which a gateway serves."""
    ledger = Ledger.open(url, clock or Clock())
    ledger.bind(gateway or free_gateway(), account_concurrent, cap_margin)
    return ledger


def new_key(ledger: Ledger, **terms: object) -> Key:
    values = {"account": account(USER), "concurrent": 1_000, "tokens_per_minute": 1 << 40, **terms}
    return ledger.keys.create(KeyTerms(**values))[0]  # type: ignore[arg-type]


def request_id(number: int) -> bytes:
    return sha256(b"request %d" % number)


def asked(
    number: int, prompt_tokens: int = 10, max_tokens: int = 100, idempotency: str | None = None, body: bytes = b"body",
    prices: tuple[int, int] = PRICES, book: bytes = BOOK,
) -> Reservation:  # fmt: skip
    return Reservation(
        request=request_id(number), model=MODEL, model_id="haiku@07070707", price_book=book, prices=prices,
        prompt=sha256(b"prompt"), prompt_tokens=prompt_tokens, max_tokens=max_tokens, idempotency=idempotency,
        body_hash=sha256(body),
    )  # fmt: skip


def used(prompt_tokens: int = 10, output_tokens: int = 20, answer: bytes | None = None) -> Used:
    return Used(prompt_tokens, output_tokens, sha256(b"answer"), "stop", answer)


def reserved(ledger: Ledger, key: Key, asked: Reservation) -> Row:
    row = ledger.reserve(key.id, asked)
    assert isinstance(row, Row)
    return row


# Money

HOST, OWNER, PROTOCOL, ONE, TWO = (bytes([0xA0 + number]) * 20 for number in range(5))
TABLE = LeafTable(31_337, PROTOCOL, MODEL, {ONE: 3, TWO: 2})


def price_book(prompt: int = PRICES[0], output: int = PRICES[1]) -> PriceBook:
    offer = Offer(MODEL, prompt, output, Split(2_000, 800, 2_200, 5_000), HOST, OWNER, TABLE.hash)
    return PriceBook(account(GATEWAY), PROTOCOL, (offer,))


def publish(ledger: Ledger, book: PriceBook) -> None:
    ledger.batches.publish(book, GATEWAY.sign_digest(price_book_digest(DOMAIN, book)), [TABLE])


def signed_cap(book: PriceBook, cumulative: int, expiry: int = NOON + 10**6, user: Signer = USER) -> SignedCap:
    cap = Cap(account(user), account(GATEWAY), book.hash, cumulative, expiry)
    return SignedCap(cap, user.sign_digest(cap_digest(DOMAIN, cap)))


def lending(url: str, book: PriceBook, clock: Clock | None = None, deposit: int = 10**6, cap: int = 10**6) -> Ledger:
    """A ledger whose gateway lends: the user has a key, a deposit and a cap."""
    ledger = opened(url, clock, lending_gateway())
    publish(ledger, book)
    new_key(ledger)
    ledger.set_stake(100, 100)
    ledger.set_deposit(account(USER), deposit, {})
    ledger.caps.store(signed_cap(book, cap))
    return ledger


def answered(ledger: Ledger, key: Key, number: int, book: PriceBook, output_tokens: int = 20) -> Row:
    """A request that was reserved and settled."""
    reserved(ledger, key, asked(number, book=book.hash, prices=(book.offers[0].prompt, book.offers[0].output)))
    return ledger.settle(request_id(number), used(10, output_tokens), sign)
