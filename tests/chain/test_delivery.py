"""Many transactions at once: their order, their blocks, and which of them failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.chain import embedded, transactions
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.http_node import HttpNode
from flock_ray.chain.journal import Block, Genesis
from flock_ray.chain.keys import run_signer
from flock_ray.errors import ChainError, FundsError
from tests.chain.world import RUN_SEED, TOKEN, World, spec

MEMBERS = 5
NAMES = [f"member {number}" for number in range(MEMBERS)]


def gifts(world: World, *, too_much: int = -1) -> list[bytes]:
    """A transfer by each member, of tokens that one of them does not have."""
    raws: list[bytes] = []
    for number, context in enumerate(world.client.contexts([one.address for one in world.members]).values()):
        rich = replace(context, token_balance=TOKEN)
        amount = TOKEN if number == too_much else number
        raws += transactions.transfer(world.members[number], rich, [(world.creator.address, amount)])
    return raws


def fund(world: World) -> None:
    grants = [(member.address, 100) for member in world.members]
    world.do(world.creator, lambda s, c: transactions.transfer(s, c, grants))


def blocks(folder: Path) -> list[Block]:
    return [Block.from_line(line) for line in (folder / "chain" / "blocks.jsonl").read_bytes().splitlines()]


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Members and contracts on an existing chain, asked in batches of three."""
    monkeypatch.setattr(HttpNode, "batch_size", 3)
    monkeypatch.setenv("FLOCK_RAY_RELAYER_KEY", run_signer(RUN_SEED, "relayer")._key.to_hex())
    names = ["creator", "relayer", *(f"member-{number}" for number in range(MEMBERS))]
    process = AnvilProcess(
        Genesis("anvil", 4_711, GENESIS_TIME, {run_signer(RUN_SEED, name).address: GAS_MONEY for name in names})
    )
    world = World(spec("rpc", url=process.url), tmp_path)
    world.deploy()
    yield world
    world.client.close()
    process.close()


def test_what_is_sent_together_shares_blocks(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fund(world)
    before = len(blocks(tmp_path))
    monkeypatch.setattr(embedded, "_SHARED_GAS", 2 * 75_000)  # two transfers
    raws = gifts(world)
    receipts = world.client.broadcast(raws, 0)
    assert [block.raws for block in blocks(tmp_path)[before:]] == [tuple(raws[:2]), tuple(raws[2:4]), tuple(raws[4:])]
    assert [receipt.block - before for receipt in receipts] == [1, 1, 2, 2, 3]
    assert world.client.broadcast(raws, 3) == receipts and len(blocks(tmp_path)) == before + 3
    timestamps = [block.timestamp - GENESIS_TIME for block in blocks(tmp_path)]
    assert timestamps == list(range(1, before + 4))


def test_what_was_not_mined_before_is_mined_now(world: World) -> None:
    fund(world)
    raws = gifts(world)
    some = world.client.broadcast(raws[1:3], 0)
    assert world.client.broadcast(raws, 0)[1:3] == some


def test_nothing_comes_after_a_transaction_that_reverts(world: World, tmp_path: Path) -> None:
    fund(world)
    before, raws = len(blocks(tmp_path)), gifts(world, too_much=2)
    told = (
        r"^member 2's transfer: transaction 0x[0-9a-f]{64} reverted: ERC20InsufficientBalance\(sender=0x\w+, balance="
    )
    with pytest.raises(FundsError, match=told) as caught:
        world.client.broadcast(raws, 0, NAMES)
    assert "\n" not in str(caught.value)
    assert [block.raws for block in blocks(tmp_path)[before:]] == [tuple(raws[:2]), (raws[2],)]
    world.client.broadcast(raws[3:], 0)
    assert len(blocks(tmp_path)) == before + 3
    world.client.close()
    again = World(world.spec, tmp_path)  # the same chain, from its journal
    assert again.client.timestamp() == GENESIS_TIME + before + 3
    again.client.close()


def test_nothing_comes_after_a_transaction_that_is_refused(world: World, tmp_path: Path) -> None:
    fund(world)
    before, raws = len(blocks(tmp_path)), gifts(world)
    context = world.client.context(world.members[3].address)
    raws[3:4] = transactions.transfer(
        world.members[3], replace(context, nonce=context.nonce + 1), [(world.creator.address, 1)]
    )
    with pytest.raises(ChainError, match=r"^member 3's transfer: a transaction of 0x\w+ comes out of turn: nonce 1, "):
        world.client.broadcast(raws, 0, NAMES)
    assert [block.raws for block in blocks(tmp_path)[before:]] == [tuple(raws[:3])]


@pytest.mark.anvil
def test_an_existing_chain_gets_batches(remote: World) -> None:
    fund(remote)
    raws = gifts(remote)
    receipts = remote.client.broadcast(raws, 0)
    assert remote.client.broadcast(raws, 0) == receipts
    addresses = [member.address for member in remote.members]
    assert list(remote.client.wallet_balances(addresses).values()) == [100 - number for number in range(MEMBERS)]
    contexts = remote.client.contexts(addresses)
    assert contexts == {address: remote.client.context(address) for address in addresses}
    assert {context.nonce for context in contexts.values()} == {1}


@pytest.mark.anvil
@pytest.mark.parametrize("one_by_one", [False, True])
def test_an_existing_chain_s_failure_is_told_with_its_member(remote: World, one_by_one: bool) -> None:
    fund(remote)
    told = r"^member 2's transfer: transaction 0x[0-9a-f]{64} reverted: ERC20InsufficientBalance"
    with pytest.raises(FundsError, match=told):
        remote.client.broadcast(gifts(remote, too_much=2), 0, NAMES, one_by_one)
    nonces = [context.nonce for context in remote.client.contexts([one.address for one in remote.members]).values()]
    assert nonces == [1, 1, 1, 0, 0]


@pytest.mark.anvil
def test_one_by_one_keeps_the_order(remote: World) -> None:
    fund(remote)
    node = remote.client._node
    node._request("anvil_setIntervalMining", [1])
    receipts = remote.client.broadcast(gifts(remote)[:3], 0, one_by_one=True)
    numbers = [receipt.block for receipt in receipts]
    assert numbers == sorted(set(numbers))
