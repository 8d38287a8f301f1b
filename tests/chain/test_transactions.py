from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.chain import transactions
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.transactions import max_fee_of, outbid
from flock_ray.chain.values import TaskTerms, TxContext
from flock_ray.chain.words import format_tokens
from flock_ray.errors import FundsError
from flock_ray.protocol.hashing import keccak

GWEI = 10**9
SIGNER = run_signer(1, "creator")
RICH = TxContext(31_337, 7, 2 * GWEI, GWEI, 10**21, 10**21, *(run_signer(1, f"member-{i}").address for i in range(5)))
TASK = keccak(b"task")
TERMS = TaskTerms(TASK, TASK, TASK, 10**21, 1, 1, 1, 1, 1, 2, 1, 1, 1, 0, 1, 1, True)

MAKERS: dict[str, Callable[[Signer, TxContext], Any]] = {
    "deploy": lambda s, c: transactions.deploy(s, c, 10**21, 1)[0],
    "transfer": lambda s, c: transactions.transfer(s, c, [(s.address, 10**21 - 1), (s.address, 1)]),
    "create_task": lambda s, c: transactions.create_task(s, c, TERMS, TASK),
    "create_contest": lambda s, c: transactions.create_task(s, c, TERMS, TASK, 5),
    "enter": lambda s, c: transactions.enter(s, c, TASK, 10**21, TASK),
    "join": lambda s, c: transactions.join(s, c, TASK, 10**21, TASK, TASK),
    "resign": lambda s, c: transactions.resign(s, c, TASK),
    "start": lambda s, c: transactions.start(s, c, TASK),
    "open": lambda s, c: transactions.open_task(s, c, TASK),
    "claim": lambda s, c: transactions.claim(s, c, TASK, s.address, 5, [TASK]),
    "claim_to_pool": lambda s, c: transactions.claim(s, c, TASK, s.address, 5, [TASK], to_pool=True),
    "release": lambda s, c: transactions.release(s, c, TASK, s.address),
}


def fields_of(raw: bytes) -> dict[str, Any]:
    return dict(TypedTransaction.from_bytes(HexBytes(raw)).as_dict())


@pytest.mark.parametrize("name", MAKERS)
def test_every_field_is_explicit(name: str) -> None:
    raws = MAKERS[name](SIGNER, RICH)
    for i, raw in enumerate(raws):
        fields = fields_of(raw)
        assert Account.recover_transaction(HexBytes(raw)) == SIGNER.address
        assert (fields["chainId"], fields["nonce"]) == (31_337, 7 + i)
        assert (fields["maxFeePerGas"], fields["maxPriorityFeePerGas"]) == (2 * GWEI, GWEI)
        assert 21_000 < fields["gas"] < 2**24  # EIP-7825
    assert raws == MAKERS[name](SIGNER, RICH)


@pytest.mark.parametrize("name", MAKERS)
def test_too_little_gas_money_is_told_before_anything_is_signed(name: str) -> None:
    needed = sum(fields_of(raw)["gas"] for raw in MAKERS[name](SIGNER, RICH)) * 2 * GWEI
    MAKERS[name](SIGNER, replace(RICH, gas_balance=needed))
    with pytest.raises(FundsError, match=f"{SIGNER.address} has {needed - 1} wei for gas, needs {needed} wei"):
        MAKERS[name](SIGNER, replace(RICH, gas_balance=needed - 1))


@pytest.mark.parametrize(
    ("name", "purpose"),
    [("create_task", "the task's pool"), ("join", "the stake"), ("enter", "the stake"), ("transfer", "the others")],
)
def test_too_few_tokens_are_told_before_anything_is_signed(name: str, purpose: str) -> None:
    poor = replace(RICH, token_balance=10**21 - 5 * 10**17)
    with pytest.raises(FundsError, match=rf"{SIGNER.address} has 999\.5 tokens, needs 1000 for {purpose}"):
        MAKERS[name](SIGNER, poor)


def test_the_gas_of_joining_follows_the_slots() -> None:
    single, most = (fields_of(transactions.join(SIGNER, RICH, TASK, 1, TASK, TASK, n)[2])["gas"] for n in (1, 256))
    assert single < 300_000 < most < 2**24
    assert fields_of(transactions.join(SIGNER, RICH, TASK, 1, TASK, TASK)[2])["gas"] == most


@given(*[st.integers(1, 10**12)] * 4)
def test_a_replacement_outbids_both_fees_by_an_eighth(max_fee: int, tip: int, now_fee: int, now_tip: int) -> None:
    """Real nodes ask for 10 % on both (anvil for less); 12.5 % is what clients use."""
    context = replace(RICH, max_fee_per_gas=max_fee, max_priority_fee_per_gas=min(tip, max_fee), gas_balance=10**30)
    (raw,) = transactions.start(SIGNER, context, TASK)
    before, after = fields_of(raw), fields_of(outbid(SIGNER, raw, now_fee, now_tip))
    for fee, now in (("maxFeePerGas", now_fee), ("maxPriorityFeePerGas", now_tip)):
        assert after[fee] >= max(now, 1.125 * before[fee])
    for same in ("chainId", "nonce", "gas", "to", "value", "data"):
        assert after[same] == before[same]
    assert max_fee_of(raw) == max_fee


@given(st.integers(0, 2**128))
def test_amounts_are_shown_exactly(wei: int) -> None:
    whole, _, rest = format_tokens(wei).partition(".")
    assert int(whole) * 10**18 + int(rest.ljust(18, "0")) == wei
