"""A batch of usage is derived again from its files, and whatever is changed in any of them is noticed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.chain import usage_calls
from flock_ray.chain.eip712 import cap_digest, price_book_digest, receipt_digest, usage_domain
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.usage import SignedCap, SignedReceipt, UsageBatch, account_text
from flock_ray.chain.usage_files import BatchEvidence, batch_files
from flock_ray.errors import RunDirectoryError, VerificationError
from flock_ray.protocol.encoding import canonical_json, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.price_book import LeafTable, Offer, PriceBook, Split
from flock_ray.protocol.receipt import Cap, Receipt
from flock_ray.protocol.usage import Tables, charge
from flock_ray.verify.usage import Source, verify_usage

GATEWAY, KEY, *USERS = (run_signer(9, f"member-{number}") for number in range(5))
HOST, OWNER, PROTOCOL, ONE, TWO, DISTRIBUTOR, CONTRACT = (bytes([0xB0 + number]) * 20 for number in range(7))
MODEL, FREE, TASK = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
TABLE = LeafTable(5, DISTRIBUTOR, TASK, {ONE: 3, TWO: 2})
DOMAIN = usage_domain(5, account_text(CONTRACT))
SETTLED = 1_000


def account(signer: Signer) -> bytes:
    return bytes.fromhex(signer.address[2:])


BOOK = PriceBook(
    account(GATEWAY),
    PROTOCOL,
    (
        Offer(MODEL, 2, 6, Split(2_000, 800, 2_200, 5_000), HOST, OWNER, TABLE.hash),
        Offer(FREE, 0, 1, Split(5_000, 5_000, 0, 0), HOST, OWNER, bytes(32)),
    ),
)


def receipt_of(number: int, user: Signer, model: bytes, tokens: tuple[int, int]) -> Receipt:
    cost = BOOK.offer(model).cost(*tokens)
    return Receipt(
        BOOK.gateway, sha256(b"%d" % number), account(user), model, sha256(b"p"), sha256(b"o"), *tokens, BOOK.hash, cost
    )


def sign_receipt(receipt: Receipt) -> SignedReceipt:
    return SignedReceipt(receipt, account(KEY), KEY.sign_digest(receipt_digest(DOMAIN, receipt)))


def cap_of(user: Signer, cumulative: int, expiry: int = SETTLED) -> SignedCap:
    cap = Cap(account(user), BOOK.gateway, BOOK.hash, cumulative, expiry)
    return SignedCap(cap, user.sign_digest(cap_digest(DOMAIN, cap)))


FIRST = [receipt_of(1, USERS[0], MODEL, (1_000, 200)), receipt_of(2, USERS[1], MODEL, (38, 0))]
SECOND = [
    receipt_of(3, USERS[0], FREE, (9, 7)),
    receipt_of(4, USERS[2], MODEL, (1, 1)),
    receipt_of(5, USERS[2], FREE, (3, 0)),
]
WEIGHTS = {TABLE.hash: TABLE}
BEFORE = charge(Tables(), FIRST, BOOK, WEIGHTS)
AFTER = charge(BEFORE, SECOND, BOOK, WEIGHTS)


def evidence(**changed: Any) -> BatchEvidence:
    caps = {account(user): cap_of(user, AFTER.charges[account(user)]) for user in (USERS[0], USERS[2])}
    signature = GATEWAY.sign_digest(price_book_digest(DOMAIN, BOOK))
    made = BatchEvidence(BOOK, signature, [TABLE], BEFORE, [sign_receipt(one) for one in reversed(SECOND)], caps)
    return replace(made, **changed)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def second(**changed: Any) -> dict[str, bytes]:
    return batch_files(
        UsageBatch(DOMAIN, BOOK.gateway, BOOK.hash, 2, AFTER), evidence(**changed), SETTLED, GATEWAY.sign_digest
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "batch", second())


def test_batch_holds(folder: Path, tmp_path: Path) -> None:
    replay = verify_usage(folder)
    assert (replay.charges, replay.payouts) == (dict(AFTER.charges), dict(AFTER.payouts))
    assert (replay.number, replay.num_receipts, replay.on_chain) == (2, 3, False)
    run = usage_domain(5, account_text(DISTRIBUTOR))  # the run's own root, as its reports have it
    root = MerkleTree(reward_leaf(run, TASK, account_text(who), units) for who, units in TABLE.rewards.items()).root
    assert replay.sources == {MODEL: Source(5, DISTRIBUTOR, TASK, root)}
    caps = {account(user): cap_of(user, 10**6) for user in USERS[:2]}
    made = evidence(before=Tables(), receipts=[sign_receipt(one) for one in FIRST], caps=caps)
    first = batch_files(UsageBatch(DOMAIN, BOOK.gateway, BOOK.hash, 1, BEFORE), made, SETTLED, GATEWAY.sign_digest)
    assert verify_usage(write(tmp_path / "first", first)).payouts == dict(BEFORE.payouts)


def test_golden_answer(tmp_path: Path) -> None:
    one = FIRST[:1]
    made = evidence(before=Tables(), receipts=[sign_receipt(one[0])], caps={account(USERS[0]): cap_of(USERS[0], 3_200)})
    tables = charge(Tables(), one, BOOK, WEIGHTS)
    files = batch_files(UsageBatch(DOMAIN, BOOK.gateway, BOOK.hash, 1, tables), made, SETTLED, GATEWAY.sign_digest)
    payouts = verify_usage(write(tmp_path / "golden", files)).payouts
    assert payouts == {HOST: 640, PROTOCOL: 256, OWNER: 704, ONE: 960, TWO: 640}


def test_files_do_not_depend_on_the_order_of_receipts() -> None:
    assert second() == second(receipts=[sign_receipt(one) for one in SECOND])


def leaves_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all plain values in a JSON value, and of its lists' ends."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves_of(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves_of(item, (*path, index))
    else:
        yield path


def another(value: Any) -> Any:
    """A value of the same form that is not this one."""
    if isinstance(value, int):
        return value + 1
    if re.fullmatch("0x[0-9a-f]+", value):
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    return value + "x"


def lines_of(name: str, data: bytes) -> list[bytes]:
    return data.splitlines() if name.endswith("l") else [data]


CASES = [
    (name, line, path)
    for name, data in second().items()
    for line, text in enumerate(lines_of(name, data))
    for path in leaves_of(json.loads(text))
]


@pytest.mark.parametrize("name, line, path", CASES, ids=lambda part: str(part).replace("'", ""))
def test_every_field_of_every_file_is_noticed(folder: Path, name: str, line: int, path: tuple[Any, ...]) -> None:
    lines = lines_of(name, (folder / name).read_bytes())
    value = json.loads(lines[line])
    if not path:
        value = another(value)
    else:
        at = value
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = another(at[path[-1]])
    lines[line] = canonical_json(value)
    (folder / name).write_bytes(b"\n".join(lines) + (b"\n" if name.endswith("l") else b""))
    with pytest.raises(VerificationError) as refused:
        verify_usage(folder)
    assert "\n" not in str(refused.value)


def test_missing_files_and_folders_are_told(folder: Path, tmp_path: Path) -> None:
    for name in second():
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        (copy / name).unlink()
        wanted = RunDirectoryError if name == "batch.json" else VerificationError
        with pytest.raises(wanted, match=re.escape(name)):
            verify_usage(copy)


def without(name: str, number: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        lines = lines_of(name, (folder / name).read_bytes())
        if name.endswith("l"):
            del lines[number]
            (folder / name).write_bytes(b"".join(line + b"\n" for line in lines))
        else:
            value = json.loads(lines[0])
            del value[number]
            (folder / name).write_bytes(canonical_json(value))

    return change


def doubled(folder: Path) -> None:
    path = folder / "receipts.jsonl"
    first = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(first + path.read_bytes())


def swapped(folder: Path) -> None:
    path = folder / "receipts.jsonl"
    one, two, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([two, one, *rest]))


def spaced(folder: Path) -> None:
    path = folder / "caps.json"
    path.write_bytes(path.read_bytes() + b" ")


def cut(folder: Path) -> None:
    path = folder / "receipts.jsonl"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "change, told",
    [
        (without("receipts.jsonl", 0), "sum of|_root|total"), (without("caps.json", 0), "has no cap of"),
        (without("weights.json", 0), "has no table with the hash"), (doubled, "not in ascending order"),
        (swapped, "not in ascending order"), (spaced, "not canonical JSON"), (cut, "does not end with a whole line"),
    ],
)  # fmt: skip
def test_left_out_doubled_or_reordered(folder: Path, change: Callable[[Path], None], told: str) -> None:
    change(folder)
    with pytest.raises(VerificationError, match=told):
        verify_usage(folder)


def batch_with(tables: Tables, **changed: Any) -> dict[str, bytes]:
    return batch_files(
        UsageBatch(DOMAIN, BOOK.gateway, BOOK.hash, 2, tables), evidence(**changed), SETTLED, GATEWAY.sign_digest
    )


def test_gateway_that_signs_everything_anew_is_caught(tmp_path: Path) -> None:
    """What a dishonest gateway can sign: receipts, the book, roots. Users' caps it cannot."""
    dear = sign_receipt(replace(SECOND[1], cost=9))
    stranger = SignedReceipt(SECOND[1], account(USERS[0]), sign_receipt(SECOND[1]).signature)
    paid = dict(AFTER.payouts)
    paid[HOST], paid[ONE] = paid[HOST] + 1, paid[ONE] - 1
    rest = [sign_receipt(one) for one in (SECOND[0], SECOND[2])]
    low = {
        account(USERS[0]): cap_of(USERS[0], AFTER.charges[account(USERS[0])] - 1),
        account(USERS[2]): cap_of(USERS[2], 10**6),
    }
    late = {**low, account(USERS[0]): cap_of(USERS[0], 10**6, SETTLED - 1)}
    fake = replace(low[account(USERS[2])], cap=replace(low[account(USERS[2])].cap, account=account(USERS[0])))
    more = {account(user): cap_of(user, 10**6) for user in USERS}
    other = replace(TABLE, rewards={ONE: 2, TWO: 3})
    cases: list[tuple[dict[str, bytes], str]] = [
        (second(receipts=[*rest, dear]), "cost on line"),
        (second(receipts=[*rest, stranger]), "is not signed by"),
        (second(receipts=[*rest, sign_receipt(replace(SECOND[1], gateway=HOST))]), "gateway on line"),
        (second(receipts=[*rest, sign_receipt(replace(SECOND[1], price_book=MODEL))]), "price book on line"),
        (second(receipts=[*rest, sign_receipt(replace(SECOND[1], model=TASK))]), "no such model"),
        (batch_with(Tables(AFTER.charges, paid)), "payouts_root"),
        ({**second(), "batch.json": batch_with(BEFORE)["batch.json"]}, "batch.json is not signed"),
        (second(caps=low), "above its cap of"),
        (second(caps=late), "had expired"),
        (second(caps={**low, account(USERS[0]): fake}), "is not signed by"),
        (second(caps=more), "charges .* nothing"),
        (second(weights=[other]), "has no table with the hash"),
        (second(weights=[TABLE, other]), "which no offer names"),
        (second(book_signature=KEY.sign_digest(price_book_digest(DOMAIN, BOOK))), "price book is not signed"),
    ]
    for number, (files, told) in enumerate(cases):
        with pytest.raises(VerificationError, match=told):
            verify_usage(write(tmp_path / str(number), files))


def test_batches_before_are_bound_by_their_roots(tmp_path: Path) -> None:
    files = second()
    files["before.json"] = canonical_json({"charges": [[to_hex(HOST), 5]], "payouts": [[to_hex(HOST), 5]]})
    with pytest.raises(VerificationError, match="before_charges_root"):
        verify_usage(write(tmp_path / "a", files))
    first = batch_files(UsageBatch(DOMAIN, BOOK.gateway, BOOK.hash, 1, AFTER), evidence(), SETTLED, GATEWAY.sign_digest)
    with pytest.raises(VerificationError, match="nothing is before the first batch"):
        verify_usage(write(tmp_path / "b", first))


@pytest.mark.chain
def test_chain_is_asked(tmp_path: Path) -> None:
    from tests.chain.usage_world import TABLE as WEIGHTED
    from tests.chain.usage_world import UsageWorld

    usage = UsageWorld(tmp_path / "world")
    node = usage.client._node
    book = usage.book()
    sign = usage.gateway.sign_digest
    signature = sign(price_book_digest(usage.usage, book))
    tables, folders = [Tables()], []
    for number in (1, 2):
        receipt = usage.receipt(book, number, usage.users[0], (10 * number, 3))
        tables.append(charge(tables[-1], [receipt], book, {WEIGHTED.hash: WEIGHTED}))
        batch = usage.batch(book, number, tables[-1])
        usage.send(usage.gateway, usage_calls.settle_batch(batch))
        settled = usage.reader.batch(batch.series, number).settled_at
        caps = {account(usage.users[0]): usage.cap(usage.users[0], book, 10**9)}
        made = BatchEvidence(book, signature, [WEIGHTED], tables[-2], [usage.signed(receipt)], caps)
        folders.append(write(tmp_path / str(number), batch_files(batch, made, settled, sign)))
        assert verify_usage(folders[-1], node).on_chain
    late = write(tmp_path / "late", batch_files(batch, made, settled - 1, sign))
    with pytest.raises(VerificationError, match="settled_at, by the chain"):
        verify_usage(late, node)
    never = batch_files(usage.batch(book, 3, tables[-1]), made, settled, sign)
    with pytest.raises(VerificationError, match="the chain has no batch 3"):
        verify_usage(write(tmp_path / "never", never), node)
    other = replace(made, receipts=[usage.signed(usage.receipt(book, 2, usage.users[0], (21, 3)))])
    charged = charge(tables[-2], [one.receipt for one in other.receipts], book, {WEIGHTED.hash: WEIGHTED})
    with pytest.raises(VerificationError, match="charges_root, by the chain"):
        verify_usage(write(tmp_path / "other", batch_files(usage.batch(book, 2, charged), other, settled, sign)), node)
    usage.key = run_signer(0, "relayer")  # no receipt key of the gateway
    strange = replace(made, receipts=[usage.signed(one.receipt) for one in made.receipts])
    with pytest.raises(VerificationError, match="is no receipt key of the gateway"):
        verify_usage(write(tmp_path / "strange", batch_files(batch, strange, settled, sign)), node)
    with pytest.raises(VerificationError, match="not this package's UsageSettlement"):
        elsewhere = replace(batch, domain=usage_domain(batch.domain.chain_id, usage.client.addresses.token))
        verify_usage(write(tmp_path / "else", _resigned(usage, elsewhere, made, settled)), node)
    usage.client.close()


def _resigned(usage: Any, batch: UsageBatch, made: BatchEvidence, settled: int) -> dict[str, bytes]:
    """The same batch for another contract, signed by everybody."""
    usage.usage, usage.key = batch.domain, run_signer(5, "receipts")
    signature = usage.gateway.sign_digest(price_book_digest(batch.domain, made.book))
    receipts = [usage.signed(one.receipt) for one in made.receipts]
    caps = {account(usage.users[0]): usage.cap(usage.users[0], made.book, 10**9)}
    return batch_files(
        batch, replace(made, book_signature=signature, receipts=receipts, caps=caps), settled, usage.gateway.sign_digest
    )
