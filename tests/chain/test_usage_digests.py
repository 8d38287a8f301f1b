"""What users, receipt keys and gateways sign about usage, against eth_account and the contract."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from flock_ray.chain.eip712 import Domain, cap_digest, price_book_digest, receipt_digest, usage_domain
from flock_ray.chain.keys import run_signer
from flock_ray.chain.usage import account_text
from flock_ray.protocol.price_book import Offer, PriceBook, Split
from flock_ray.protocol.receipt import Cap, Receipt
from tests.chain.test_eip712 import TYPES, oracle

words = st.binary(min_size=32, max_size=32)
accounts = st.binary(min_size=20, max_size=20)
domains = st.builds(usage_domain, st.integers(0, 2**256 - 1), accounts.map(account_text))
tokens, amounts = st.integers(0, 2**64 - 1), st.integers(0, 2**128 - 1)
receipts = st.builds(Receipt, accounts, words, accounts, words, words, words, tokens, tokens, words, amounts)
caps = st.builds(Cap, accounts, accounts, words, amounts, tokens)
TYPES["Cap"] = [
    ("account", "address"), ("gateway", "address"), ("priceBook", "bytes32"), ("cumulative", "uint128"),
    ("expiry", "uint64"),
]  # fmt: skip
TYPES["Receipt"] = [
    ("gateway", "address"), ("request", "bytes32"), ("account", "address"), ("model", "bytes32"),
    ("prompt", "bytes32"), ("output", "bytes32"), ("promptTokens", "uint64"), ("outputTokens", "uint64"),
    ("priceBook", "bytes32"), ("cost", "uint128"),
]  # fmt: skip
TYPES["PriceBook"] = [("gateway", "address"), ("digest", "bytes32")]


def as_message(value: Cap | Receipt) -> dict[str, object]:
    """The fields of a struct by their names in its type."""
    found = {}
    for item in fields(value):
        head, *rest = item.name.split("_")
        content = getattr(value, item.name)
        is_account = isinstance(content, bytes) and len(content) == 20
        found[head + "".join(part.title() for part in rest)] = account_text(content) if is_account else content
    return found


@given(domains, caps)
def test_cap_digest(domain: Domain, cap: Cap) -> None:
    assert cap_digest(domain, cap) == oracle(domain, "Cap", as_message(cap))[1]


@given(domains, receipts)
def test_receipt_digest(domain: Domain, receipt: Receipt) -> None:
    assert receipt_digest(domain, receipt) == oracle(domain, "Receipt", as_message(receipt))[1]


@given(domains, accounts)
def test_price_book_digest(domain: Domain, gateway: bytes) -> None:
    offer = Offer(b"\x01" * 32, 2, 6, Split(10_000, 0, 0, 0), gateway, gateway, bytes(32))
    book = PriceBook(gateway, gateway, (offer,))
    message = {"gateway": account_text(gateway), "digest": book.hash}
    assert price_book_digest(domain, book) == oracle(domain, "PriceBook", message)[1]


def test_golden_digests() -> None:
    """What was signed yesterday is what is signed today."""
    domain = usage_domain(31_337, run_signer(0, "creator").address)
    one, two, word = b"\x01" * 20, b"\x02" * 20, b"\x03" * 32
    assert (
        cap_digest(domain, Cap(one, two, word, 3_200, 1_800_000_000)).hex()
        == "37c6412d2886ccce652b41948dc5f5a2d6b0d5bedd0e416e694d5fa5bc10702e"
    )
    receipt = Receipt(two, word, one, word, word, word, 1_000, 200, word, 3_200)
    assert receipt_digest(domain, receipt).hex() == "faeca8e76d2da3921a8f7e5ee359ac83fde09e8830b8eb1aee4b03671ac223ac"
