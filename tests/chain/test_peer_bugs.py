"""Bugs that were found in other projects' off-chain settlement code, each tried here.

Those of contracts are in `contracts/test/PeerBugs.t.sol` and `contracts/test/StakeVaultAttacks.t.sol`.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_abi.abi import encode

from flock_ray.chain import node as chain_node
from flock_ray.chain import transactions
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.evm import EthTesterNode
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import run_signer
from flock_ray.chain.merkle import reward_leaf
from flock_ray.chain.outbox import intent_id
from flock_ray.chain.rpc import RpcNode
from flock_ray.errors import ChainError
from flock_ray.protocol.hashing import keccak
from tests.chain.vectors import DOMAIN, TASK, account

pytestmark = pytest.mark.chain

DAY = 86_400.0
SENDER = run_signer(11, "sender")
BASE_FEE = 5_000_000  # wei a gas, the least on Base


@pytest.fixture
def node() -> Iterator[RpcNode]:
    process = AnvilProcess(Genesis("anvil", 4_711, GENESIS_TIME, {SENDER.address: GAS_MONEY}))
    node = RpcNode(process.url)
    yield node
    node.close()
    process.close()


@pytest.mark.parametrize("timeout", [3_600.0, 2 * DAY])
def test_atxm_seconds_of_a_timedelta_wrap_after_a_day(
    timeout: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nucypher's ATxM took `.seconds` of a difference of times: after a day it had waited for none."""
    node = EthTesterNode(tmp_path, [SENDER.address])
    now = [0.0]
    monkeypatch.setattr(chain_node, "monotonic", lambda: now[0])
    monkeypatch.setattr(chain_node, "sleep", lambda _: now.__setitem__(0, now[0] + DAY + 1))
    with pytest.raises(ChainError, match=f"is not mined after {timeout:g} s"):
        node.wait([keccak(b"nothing")], timeout)
    assert timeout <= now[0] < timeout + 2 * DAY
    node.close()


def test_eigenlayer_an_idempotency_key_with_a_nonce_tells_equals_apart() -> None:
    """The name of a settlement has no room for one: chain, contract and report are all of it."""
    report = keccak(b"report")
    assert intent_id(1, DOMAIN.contract, report) == intent_id(1, DOMAIN.contract.lower(), report)
    assert len({intent_id(chain, place, report) for chain in (1, 2) for place in (DOMAIN.contract, account(0))}) == 4


def test_eigenlayer_leaves_made_of_text() -> None:
    """Leaves were hashed over strings, in which accounts and amounts have several forms."""
    who, wei = account(0), 2**128 - 1
    assert reward_leaf(DOMAIN, TASK, who, wei) == reward_leaf(DOMAIN, TASK, who.lower(), wei)
    assert reward_leaf(DOMAIN, TASK, who, wei) != reward_leaf(DOMAIN, TASK, who, wei - 1)  # both are the same float


@pytest.mark.anvil
def test_web3_floor_of_one_gwei_for_the_tip(node: RpcNode) -> None:
    """web3.py proposes a gwei at least, 200 times the fee of a cheap chain: the tip stays below the base fee."""
    node._request("anvil_setNextBlockBaseFeePerGas", [hex(BASE_FEE)])
    node._request("evm_mine", [])
    assert node._web3.eth.max_priority_fee == 10**9
    max_fee, tip = node.fees()
    assert (max_fee, tip) == (2 * BASE_FEE + tip, BASE_FEE)


@pytest.mark.anvil
def test_web3_retry_of_a_send_that_worked(node: RpcNode) -> None:
    """The provider sends again by itself, and the answer to the second is an error although the first was taken."""
    raws = [
        transactions.sign(SENDER, node.chain_id, nonce, node.fees(), 21_000, SENDER.address, b"") for nonce in (0, 1)
    ]
    assert node.send(raws[0], 0) == node.send(raws[0], 0) == keccak(raws[0])  # mined: nonce too low
    node._request("evm_setAutomine", [False])
    assert node.send(raws[1], 0) == node.send(raws[1], 0) == keccak(raws[1])  # pending: already known
    assert (node.mined_nonce(SENDER.address), node.nonce(SENDER.address)) == (1, 2)


@pytest.mark.anvil
@pytest.mark.parametrize("whole", [True, False])
def test_web3_follows_urls_that_a_contract_reverts_with(node: RpcNode, whole: bool) -> None:
    """EIP-3668 lets a reverting contract send the client to any url: a call of ours goes to the chain only."""
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        contract, url = account(7), f"http://127.0.0.1:{elsewhere.getsockname()[1]}/{{sender}}/{{data}}"
        types = ["address", "string[]", "bytes", "bytes4", "bytes"]
        lookup = encode(types, [contract, [url], b"", bytes(4), b""]) if whole else b""
        data = keccak(f"OffchainLookup({','.join(types)})".encode())[:4] + lookup
        size = len(data).to_bytes(2, "big")
        code = b"\x61" + size + bytes.fromhex("600c5f39") + b"\x61" + size + bytes.fromhex("5ffd") + data  # reverts
        node._request("anvil_setCode", [contract, "0x" + code.hex()])
        with pytest.raises(chain_node.Reverted):
            node.call(contract, b"", SENDER.address)
        assert select.select([elsewhere], [], [], 0) == ([], [], [])


@pytest.mark.anvil
def test_lido_nonce_of_the_latest_block(node: RpcNode) -> None:
    """Its oracle took the nonce of mined transactions: a second one took the place of the first that was pending."""
    node._request("evm_setAutomine", [False])
    for expected in (0, 1, 2):
        nonce = node.nonce(SENDER.address)
        assert (nonce, node.mined_nonce(SENDER.address)) == (expected, 0)
        node.send(transactions.sign(SENDER, node.chain_id, nonce, node.fees(), 21_000, SENDER.address, b""), 0)
    node._request("evm_mine", [])
    assert node.mined_nonce(SENDER.address) == 3
