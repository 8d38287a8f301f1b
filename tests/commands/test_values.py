"""Values as they are typed and told; no chain."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.chain.abi import contract
from flock_ray.chain.calls import Call, approve, set_commission
from flock_ray.chain.refusals import SENTENCES, refusal
from flock_ray.chain.values import TOKEN, Addresses
from flock_ray.chain.words import format_tokens, percent, rounded_tokens, utc
from flock_ray.commands.arguments import address, amount, basis_points, task
from flock_ray.commands.output import Output
from flock_ray.errors import ChainError, FundsError
from flock_ray.protocol.hashing import word

ACCOUNT = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
AT = Addresses("0x" + "11" * 20, "0x" + "22" * 20, "0x" + "33" * 20, "0x" + "44" * 20, "0x" + "55" * 20)
OURS = (
    "FlockToken", "EmissionController", "TaskRegistry", "RewardDistributor", "EpochSettlement", "StakeVault",
    "UsageSettlement",
)  # fmt: skip
LIBRARIES = {  # of OpenZeppelin: no call of ours raises them
    "AccessControlBadConfirmation", "ECDSAInvalidSignature", "ECDSAInvalidSignatureLength", "ECDSAInvalidSignatureS",
    "ERC20InvalidApprover", "ERC20InvalidReceiver", "ERC20InvalidSender", "ERC20InvalidSpender",
    "ERC2612ExpiredSignature", "ERC2612InvalidSigner", "InvalidAccountNonce", "InvalidShortString",
    "MerkleProofInvalidMultiproof", "ReentrancyGuardReentrantCall", "SafeCastOverflowedUintDowncast",
    "SafeERC20FailedOperation", "StringTooLong",
}  # fmt: skip


@given(st.integers(1, (1 << 96) - 1))
def test_an_amount_that_is_told_can_be_typed(wei: int) -> None:
    assert amount(format_tokens(wei)) == wei


@pytest.mark.parametrize(
    "text", ["", "-1", "1,5", "1e3", "0", "0.0", ".5", "1.", "1." + "0" * 18 + "1", "9" * 12, "all"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        amount(text)


@pytest.mark.parametrize(
    ("wei", "shown"),
    [
        (0, "0"), (24, "0.000000000000000024"), (99_995, "0.0000000000001"), (237_999_999_999_996, "0.000238"),
        (67_190_110_399_089, "0.00006719"), (TOKEN - 1, "1"), (TOKEN, "1"), (221_564_831 * 10**12, "221.5648"),
        (1_234_567 * TOKEN + 89 * 10**12, "1,234,567.0001"), (-5 * TOKEN // 2, "-2.5"),
    ],
)  # fmt: skip
def test_an_amount_for_people_has_four_decimals_that_count(wei: int, shown: str) -> None:
    assert rounded_tokens(wei) == shown


def test_a_share_is_typed_in_percent() -> None:
    assert (basis_points("12.5"), basis_points("0"), basis_points("100"), basis_points("7.25")) == (
        1_250,
        0,
        10_000,
        725,
    )
    assert percent(1_250) == "12.5 %"
    for text in ("100.01", "1.001", "-1", "x"):
        with pytest.raises(ArgumentTypeError):
            basis_points(text)


def test_an_address_with_a_typing_error_is_refused() -> None:
    assert address(ACCOUNT.lower()) == address(ACCOUNT) == ACCOUNT
    for text in (ACCOUNT[:-1], ACCOUNT.replace("7E", "7e"), "0x", "member-0"):
        with pytest.raises(ArgumentTypeError):
            address(text)


def test_a_task_is_named_by_its_id_or_by_a_run(tmp_path: Path) -> None:
    assert task("0x" + "ab" * 32) == task("ab" * 32) == b"\xab" * 32
    assert task(str(tmp_path)) == tmp_path
    with pytest.raises(ArgumentTypeError, match="neither the id of a task"):
        task("ab" * 31)


def test_every_refusal_has_a_sentence_for_its_fields() -> None:
    entries = {entry["name"]: entry for name in OURS for entry in contract(name).errors().values()}
    assert SENTENCES.keys() <= entries.keys()
    assert entries.keys() - SENTENCES.keys() == LIBRARIES
    for name, entry in entries.items():
        if name in SENTENCES:
            zeros = b"".join(word(64 if item["type"] == "string" else 1) for item in entry["inputs"])
            selector = next(key for key, value in contract_errors().items() if value["name"] == name)
            line = str(refusal("Contract.call", selector + zeros + word(0) * 2))
            assert line.startswith("Contract.call is refused: ") and line.endswith(f" ({name})")


def contract_errors() -> dict[bytes, dict[str, str]]:
    return {selector: entry for name in OURS for selector, entry in contract(name).errors().items()}


def test_a_refusal_is_told_in_words_whatever_it_is() -> None:
    unavailable = next(key for key, entry in contract_errors().items() if entry["name"] == "StakeUnavailable")
    error = refusal("StakeVault.unstake", unavailable + word(TOKEN // 2) + word(TOKEN))
    assert isinstance(error, FundsError)
    assert str(error) == ("StakeVault.unstake is refused: 0.5 tokens of stake are available, not 1 (StakeUnavailable)")
    assert str(refusal("X.y", b"")) == "X.y is refused: without a reason"
    assert str(refusal("X.y", b"\x01\x02\x03\x04")) == "X.y is refused: 0x01020304"
    assert type(refusal("X.y", b"")) is ChainError


def test_a_call_is_told_by_the_names_of_its_arguments() -> None:
    names = {AT.vault: "StakeVault"}
    assert approve(AT, AT.vault, TOKEN).words(names) == {"spender": f"StakeVault {AT.vault}", "value": "1 tokens"}
    assert set_commission(AT, 250).words({}) == {"commission": "2.5 %"}
    proof = Call("RewardDistributor", AT.distributor, "claim", (b"\x01" * 32, ACCOUNT, TOKEN, [b"\x02" * 32] * 3))
    assert proof.words({}) == {
        "task": "0x" + "01" * 32, "account": ACCOUNT, "cumulative": "1 tokens", "proof": "3 values"
    }  # fmt: skip


def test_facts_are_told_to_people_and_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {
        "account": ACCOUNT, "stake_wei": TOKEN // 2, "share_bps": 250, "ready_at": 0, "since_at": 1_700_000_000,
        "accepts": True, "nothing": None, "gas_coin": TOKEN,
        "rows": [{"epoch": 1, "stake_wei": TOKEN}, {"epoch": 12, "stake_wei": 3 * TOKEN // 2}], "none": [],
    }  # fmt: skip
    Output(as_json=True).facts(facts)
    assert json.loads(capsys.readouterr().out) == facts
    Output(as_json=False).facts(facts)
    assert capsys.readouterr().out.splitlines() == [
        f"account  {ACCOUNT}", "stake    0.5", "share    2.5 %", "ready    -", f"since    {utc(1_700_000_000)}",
        "accepts  yes", "nothing  -", "gas      1 ether", "", "rows", "epoch  stake", "────────────", "    1      1",
        "   12    1.5",
    ]  # fmt: skip
