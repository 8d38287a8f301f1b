"""What usage costs and who is paid: the golden numbers of the design, and that no unit is made or lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.encoding import canonical_json, to_hex
from flock_ray.protocol.hashing import ZERO, sha256
from flock_ray.protocol.price_book import BASIS, LeafTable, Offer, PriceBook, Split
from flock_ray.protocol.receipt import Cap, Receipt
from flock_ray.protocol.usage import Tables, charge, divide, series_of, uncapped

GATEWAY, PROTOCOL, HOST, OWNER = (bytes([number]) * 20 for number in (1, 2, 3, 4))
MEMBERS = [bytes([16 + number]) * 20 for number in range(3)]
USERS = [bytes([32 + number]) * 20 for number in range(3)]
MODEL, OTHER = b"\x01" * 32, b"\x02" * 32
SPLIT = Split(2_000, 800, 2_200, 5_000)


def table(weights: dict[bytes, int]) -> LeafTable:
    return LeafTable(1, HOST, MODEL, weights)


def tables_of(weights: dict[bytes, int]) -> dict[bytes, LeafTable]:
    return {table(weights).hash: table(weights)}


def offer(
    weights: dict[bytes, int], model: bytes = MODEL, prompt: int = 2, output: int = 6, split: Split = SPLIT
) -> Offer:
    return Offer(model, prompt, output, split, HOST, OWNER, table(weights).hash if split.members else ZERO)


def book_of(*offers: Offer) -> PriceBook:
    return PriceBook(GATEWAY, PROTOCOL, offers)


def receipt(
    book: PriceBook, number: int, tokens: tuple[int, int], user: bytes = USERS[0], model: bytes = MODEL
) -> Receipt:
    cost = book.offer(model).cost(*tokens)
    return Receipt(GATEWAY, sha256(b"%d" % number), user, model, sha256(b"p"), sha256(b"o"), *tokens, book.hash, cost)


def test_golden_numbers() -> None:
    weights = {MEMBERS[0]: 3, MEMBERS[1]: 2}
    parts = divide(3_200, offer(weights), weights)
    assert (parts.host, parts.protocol, parts.owner) == (640, 256, 704)
    assert parts.members == {MEMBERS[0]: 960, MEMBERS[1]: 640}
    book = book_of(offer(weights))
    tables = charge(Tables(), [receipt(book, 1, (1_000, 200))], book, tables_of(weights))
    assert tables.charges == {USERS[0]: 3_200}
    assert tables.payouts == {HOST: 640, PROTOCOL: 256, OWNER: 704, MEMBERS[0]: 960, MEMBERS[1]: 640}


def test_golden_remainders() -> None:
    weights = dict(zip(MEMBERS, (3, 2, 2), strict=True))
    parts = divide(76, offer(weights), weights)
    assert (parts.host, parts.owner) == (15, 16)
    assert list(parts.members.values()) == [16, 10, 10]
    assert parts.protocol == 6 + 3  # its own floor, and what all floors leave over


def test_book_and_receipt_come_back_from_their_bytes() -> None:
    weights = {MEMBERS[0]: 1}
    book = book_of(offer(weights), offer({}, OTHER, split=Split(BASIS, 0, 0, 0)))
    assert PriceBook.from_bytes(book.to_bytes()) == book
    one = receipt(book, 1, (5, 7))
    assert Receipt.from_bytes(one.to_bytes()) == one


def test_golden_hashes() -> None:
    """The bytes that are signed and hashed do not change by accident."""
    weights = {MEMBERS[0]: 3, MEMBERS[1]: 2}
    book = book_of(offer(weights))
    assert table(weights).hash.hex() == "378d318df4bce76de9649087d556c9640e59f83a40d192d9c3bc3a92c7f450ab"
    assert book.hash.hex() == "53575b05ac9844bc60191446ad78c108d4fbe489c74b9038408479447c2f53df"
    assert (
        sha256(receipt(book, 1, (1_000, 200)).to_bytes()).hex()
        == "ebfe12c8090c4249401e450d0846d1f2544a714e94e6e4ad5c1bed09fde9a8ef"
    )
    assert series_of(GATEWAY, book.hash).hex() == "350da3ae623b74032251701bf5cf2b8e6941ca62f1713e06ffd492892ab61ce9"


@pytest.mark.parametrize("parts", [(2_000, 800, 2_200, 4_999), (-1, 801, 2_200, 7_000), (0.5, 9_999.5, 0, 0)])
def test_splits_are_whole(parts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="sum to 10000"):
        Split(*parts)


def test_malformed_books_are_refused() -> None:
    weights = {MEMBERS[0]: 1}
    one, other = offer(weights), offer(weights, OTHER)
    for offers in ((), (one, one), (other, one)):
        with pytest.raises(ValueError, match="by ascending model, each once"):
            book_of(*offers)
    with pytest.raises(ValueError, match="price is an integer"):
        offer(weights, prompt=-1)
    with pytest.raises(ValueError, match="exactly if a part goes to members"):
        replace(one, weights=ZERO)
    with pytest.raises(ValueError, match="positive integers"):
        table({MEMBERS[0]: 0})
    with pytest.raises(ValueError, match="positive integers"):
        table({})
    data = book_of(one).to_bytes()
    for old, new in (
        (b'"prompt":2', b'"prompt":2,"tip":1'),
        (b"price_book/1", b"price_book/2"),
        (b'"model"', b'"moodel"'),
    ):
        with pytest.raises(ValueError):
            PriceBook.from_bytes(data.replace(old, new))
    for value in ([5], ["x"], [[]], [{}], {}):
        fields = {"schema": "flock_ray/price_book/1", "gateway": to_hex(HOST), "protocol": to_hex(HOST)}
        with pytest.raises(ValueError):
            PriceBook.from_bytes(canonical_json({**fields, "offers": value}))


def test_receipts_that_do_not_fit_are_refused() -> None:
    weights = {MEMBERS[0]: 1}
    book = book_of(offer(weights))
    one = receipt(book, 1, (5, 7))
    tables = tables_of(weights)
    for changed, text in (
        ({"gateway": PROTOCOL}, "of the gateway"), ({"price_book": MODEL}, "of the price book"),
        ({"model": OTHER}, "has no model"), ({"cost": one.cost + 1}, "by the price book"),
        ({"prompt_tokens": 6}, "by the price book"), ({"output_tokens": 6}, "by the price book"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            charge(Tables(), [replace(one, **changed)], book, tables)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two receipts"):
        charge(Tables(), [one, replace(one, account=USERS[1])], book, tables)
    with pytest.raises(ValueError, match="are missing"):
        charge(Tables(), [one], book, {})
    with pytest.raises(ValueError, match="another hash"):
        charge(Tables(), [one], book, {table(weights).hash: table({MEMBERS[0]: 2})})
    for changed, text in (
        ({"cost": -1}, "cost of a receipt"), ({"prompt_tokens": 1 << 64}, "prompt_tokens"),
        ({"request": b"1"}, "32 bytes"), ({"account": b""}, "20 bytes"), ({"cost": True}, "cost of a receipt"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            replace(one, **changed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has the fields"):
        Receipt.from_bytes(canonical_json({**one.as_json(), "tip": 1}))


def test_caps_bound_every_charge() -> None:
    cap = Cap(USERS[0], GATEWAY, MODEL, 100, 50)
    charges = {USERS[0]: 100, USERS[1]: 1}
    assert uncapped(charges, {USERS[0]: cap}, 50) == [USERS[1]]
    caps = {USERS[0]: cap, USERS[1]: replace(cap, account=USERS[1], cumulative=1)}
    assert uncapped(charges, caps, 50) == []
    assert uncapped(charges, caps, 51) == sorted(USERS[:2])
    assert uncapped(charges, {**caps, USERS[0]: replace(cap, cumulative=99)}, 50) == [USERS[0]]
    with pytest.raises(ValueError, match="2\\^128"):
        replace(cap, cumulative=1 << 128)


splits = (
    st.lists(st.integers(0, BASIS), min_size=3, max_size=3)
    .map(sorted)
    .map(lambda cuts: Split(cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], BASIS - cuts[2]))
)
weight_tables = st.dictionaries(st.sampled_from([*MEMBERS, HOST, PROTOCOL]), st.integers(1, 10**24), min_size=1)
requests = st.lists(
    st.tuples(st.sampled_from(USERS), st.sampled_from([MODEL, OTHER]), st.integers(0, 10**6), st.integers(0, 10**6)),
    max_size=12,
)


@given(split=splits, weights=weight_tables, cost=st.integers(0, 1 << 127))
def test_no_unit_is_made_or_lost(split: Split, weights: dict[bytes, int], cost: int) -> None:
    weights = weights if split.members else {}
    parts = divide(cost, offer(weights, split=split), weights)
    shares = [parts.host, parts.owner, parts.protocol, *parts.members.values()]
    assert min(shares) >= 0 and sum(shares) == cost
    floor = cost * split.protocol // BASIS
    assert floor <= parts.protocol <= floor + 3 + len(weights)
    for account, weight in weights.items():
        exact = cost * split.members * weight
        assert 0 <= exact - parts.members[account] * BASIS * sum(weights.values()) < 2 * BASIS * sum(weights.values())


@given(
    splits=st.tuples(splits, splits), weights=weight_tables, prices=st.tuples(*[st.integers(0, 10**12)] * 4),
    asked=requests, data=st.data(),
)  # fmt: skip
def test_order_and_batches_change_nothing(
    splits: tuple[Split, Split],
    weights: dict[bytes, int],
    prices: tuple[int, int, int, int],
    asked: list[tuple[bytes, bytes, int, int]],
    data: st.DataObject,
) -> None:
    book = book_of(
        offer(weights, MODEL, prices[0], prices[1], splits[0]), offer(weights, OTHER, prices[2], prices[3], splits[1])
    )
    tables = tables_of(weights)
    receipts = [
        receipt(book, number, tokens, user, model)
        for number, (user, model, *tokens) in enumerate(asked)  # type: ignore[arg-type]
    ]
    whole = charge(Tables(), receipts, book, tables)
    shuffled = data.draw(st.permutations(receipts))
    cut = data.draw(st.integers(0, len(receipts)))
    first = charge(Tables(), shuffled[:cut], book, tables)
    assert charge(first, shuffled[cut:], book, tables) == whole
    assert whole.total == sum(one.cost for one in receipts)
    for account, units in first.payouts.items():
        assert whole.payouts[account] >= units  # payouts only grow
    assert 0 not in [*whole.charges.values(), *whole.payouts.values()]
