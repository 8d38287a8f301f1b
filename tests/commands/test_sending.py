"""What sending costs, on a rollup too, and what is told before anything is sent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from web3.exceptions import Web3RPCError

from flock_ray.chain import history
from flock_ray.chain.calls import set_acceptance, unstake
from flock_ray.chain.rollup import GAS_PRICE_ORACLE
from flock_ray.chain.sender import Sender
from flock_ray.chain.transactions import sign
from flock_ray.chain.values import TOKEN
from flock_ray.errors import ChainError, ConfigError, FundsError, KeyMissingError
from tests.commands.market import POOR, SIGNERS, Market, environment
from tests.waiting import PATIENCE

pytestmark = pytest.mark.anvil

DATA_FEE = 0x9184E72A000  # wei
ANSWER = "6509184e72a0005f5260205ff3"  # push it, store it, return a word
UPPER_BOUND = "f1c7a58b"  # the selector of getL1FeeUpperBound
OLD = f"5f3560e01c63{UPPER_BOUND}14601b57{ANSWER}5b5f5ffd"  # reverts for that one


@pytest.mark.parametrize("oracle", [ANSWER, OLD])
def test_the_data_fee_of_a_rollup_is_in_the_bill_and_in_the_funds_check(market: Market, oracle: str) -> None:
    market.give(member_0=5)
    without = market.facts("stake", "add", "5", "--dry-run", key="member-0")
    market.node._request("anvil_setCode", [GAS_PRICE_ORACLE, "0x" + oracle])
    priced = market.facts("stake", "add", "5", "--dry-run", key="member-0")
    assert [call["data_fee_wei"] for call in priced["calls"]] == [DATA_FEE] * 2
    assert priced["fee_at_most_wei"] == pytest.approx(without["fee_at_most_wei"] + 2 * DATA_FEE, rel=1e-6)
    context = market.world.client.context(SIGNERS["member-0"].address)
    assert (context.data_fee, context.data_fee_per_byte) == (2 * DATA_FEE, 0)
    assert "+ 0.00001 ether for its data" in market.told("stake", "add", "5", "--dry-run", key="member-0")
    account = SIGNERS["member-0"].address
    market.node._request("anvil_setBalance", [account, hex(priced["fee_at_most_wei"] - DATA_FEE)])
    code, line = market.refused("stake", "add", "5", key="member-0")
    assert code == FundsError.exit_code and line.startswith(f"{account} has 0.0") and "ether for gas, needs" in line


def test_what_is_missing_is_told_before_anything_is_sent(market: Market) -> None:
    market.give(delegator_1=5)
    code, line = market.refused("stake", "add", "5", key=POOR)
    assert code == FundsError.exit_code and "has 0 ether for gas, needs 0.0" in line
    code, line = market.refused("stake", "add", "5", "--keystore", str(market.folder), key="member-0")
    assert code == KeyMissingError.exit_code
    code, line = market.refused("stake", "add", "5", key="nobody")
    assert code == KeyMissingError.exit_code and "no key named 'nobody'" in line
    code, line = market.refused("task", "show", "ab" * 32)
    assert code == ChainError.exit_code and line == f"the contracts have no task 0x{'ab' * 32}"
    without = [word for word in ("stake", "show", POOR_ADDRESS, "--rpc", market.url)]
    ended = subprocess.run(
        [sys.executable, "-m", "flock_ray", *without],
        env={**os.environ, **environment()}, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ended.returncode == ConfigError.exit_code and "name the contracts" in ended.stderr


POOR_ADDRESS = SIGNERS[POOR].address


def test_a_transaction_that_another_one_replaces_is_told_from_one_that_waits(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.give(member_0=5)
    market.told("stake", "add", "5", key="member-0")
    signer, node = SIGNERS["member-0"], market.node
    sender = Sender(node, signer, PATIENCE)
    (bill,) = sender.price([unstake(market.world.client.addresses, TOKEN)])
    nonce, send = node.nonce(signer.address), node.send

    def steal(raw: bytes, epoch: int) -> bytes:
        monkeypatch.setattr(node, "send", send)
        gift = sign(signer, node.chain_id, nonce, node.fees(), 21_000, signer.address, b"")
        node.wait([node.send(gift, 0)], PATIENCE)
        return send(raw, epoch)

    monkeypatch.setattr(node, "send", steal)
    with pytest.raises(ChainError, match=r"another transaction of 0x\w+ was mined in place of StakeVault\.unstake"):
        sender.send(bill)


def test_a_transaction_that_is_passed_over_pays_more(market: Market) -> None:
    market.give(member_0=5)
    market.told("stake", "add", "5", key="member-0")
    node, signer = market.node, SIGNERS["member-0"]
    sender = Sender(node, signer, PATIENCE)
    (bill,) = sender.price([unstake(market.world.client.addresses, TOKEN)])
    node._request("anvil_setNextBlockBaseFeePerGas", [hex(3 * bill.fees[0])])
    node._request("evm_mine", [])
    receipt = sender.send(bill)
    transaction = node.transaction(receipt.hash)
    assert transaction is not None and transaction["maxFeePerGas"] > bill.fees[0]


def test_a_call_that_the_one_before_it_made_impossible_is_not_sent(market: Market) -> None:
    """Both pass as the state is now; sent blindly, the second one would cost its gas for nothing."""
    market.give(member_0=5)
    market.told("stake", "add", "5", key="member-0")
    signer = SIGNERS["member-0"]
    sender = Sender(market.node, signer, PATIENCE)
    bills = sender.price([unstake(market.world.client.addresses, 3 * TOKEN)] * 2)
    before = market.node.nonce(signer.address)
    with pytest.raises(FundsError, match=r"2 tokens of stake are available, not 3 .*; 1 of 2 transactions were sent"):
        sender.send_in_turn(bills)
    assert market.node.nonce(signer.address) == before + 1


def test_what_is_not_mined_in_time_names_no_option_that_the_command_lacks(market: Market) -> None:
    market.node._request("evm_setAutomine", [False])
    sender = Sender(market.node, SIGNERS["member-0"], 0.2)
    (bill,) = sender.price([set_acceptance(market.world.client.addresses, True)])
    with pytest.raises(ChainError, match=r"^transaction 0x\w+ is not mined after 0\.2 s; it may still be mined later$"):
        sender.send(bill)


def test_logs_are_read_in_windows_where_a_node_bounds_a_request(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.give(member_0=5)
    market.told("stake", "add", "5", key="member-0")
    market.told("stake", "unstake", "2", key="member-0")
    market.node._request("anvil_mine", [hex(30)])
    monkeypatch.setattr(history, "LOG_WINDOW", 10)
    asked: list[int] = []
    eth = type(market.node._web3.eth)
    get_logs = eth.get_logs

    def bounded(module: object, fields: dict[str, int]) -> object:
        asked.append(fields["toBlock"] - fields["fromBlock"] + 1)
        if asked[-1] > 10:
            raise Web3RPCError("block range is too wide")
        return get_logs(module, fields)  # type: ignore[arg-type]

    monkeypatch.setattr(eth, "get_logs", bounded)
    shown = market.facts("stake", "show", SIGNERS["member-0"].address)
    assert [row["thawing_wei"] for row in shown["asked_for"]] == [2 * TOKEN]
    assert asked[0] > 30 and asked.count(10) >= 2 * 3
