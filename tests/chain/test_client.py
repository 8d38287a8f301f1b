from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from flock_ray.chain import reader, transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.anvil import find_anvil
from flock_ray.chain.client import ChainClient
from flock_ray.chain.eip712 import report_hash
from flock_ray.chain.embedded import ETH_TESTER_CHAIN_ID, GENESIS_TIME, SECONDS_PER_EPOCH
from flock_ray.chain.epoch_report import ReportedSlash
from flock_ray.chain.keys import Signer
from flock_ray.chain.merkle import reward_leaf
from flock_ray.chain.values import COMMISSION_DELAY, SINK, VAULT_EPOCH, MemberView, TaskStatus, TxContext
from flock_ray.errors import ChainError, ConfigError, FundsError, RunDirectoryError, WrongChainError
from flock_ray.protocol.hashing import keccak
from tests.chain.world import SUPPLY, TOKEN, World, spec

pytestmark = pytest.mark.chain


def total(world: World) -> int:
    """Tokens of everybody who can have any."""
    info = world.client.info()
    contracts = [info.token, info.task, info.settlement, info.distributor, info.vault]
    accounts = [world.creator.address, info.relayer, SINK, *contracts]
    return sum(world.client.wallet_balances(accounts + [member.address for member in world.members]).values())


def play(world: World) -> None:
    """A task from its creation to the last release; member 2 is slashed in epoch 1."""
    world.create()
    view = world.client.task_view(world.task)
    assert (view.status, view.pool_left, view.num_slots, len(view.members)) == (TaskStatus.RUNNING, 1_000 * TOKEN, 5, 5)
    assert [member.account for member in view.members] == [member.address for member in world.members]
    supply = world.client.total_supply()
    assert supply == SUPPLY == total(world)

    world.earned = {member.address: 30 * TOKEN + i for i, member in enumerate(world.members)}
    first, _ = world.report(slashes=[ReportedSlash(2, 300 * TOKEN)])
    receipt = world.settle(first, seats=0b1110)
    assert world.client.settle(first, 0b1110, b"") == receipt
    assert total(world) == supply
    view = world.client.task_view(world.task)
    assert [member.stake // TOKEN for member in view.members] == [3_000, 3_000, 2_700, 3_000, 3_000]
    assert view.last_settled == 1 and view.last_report == report_hash(first) and view.committed == first.rewards_total
    assert (view.pool_left, view.escrow) == (1_000 * TOKEN - first.rewards_total, 270 * TOKEN)
    assert world.client.wallet_balances([first.relayer])[first.relayer] == 30 * TOKEN
    claim(world, 0, world.earned)

    world.earned = {account: amount + 50 * TOKEN for account, amount in world.earned.items()}
    second, _ = world.report()
    world.settle(second)
    view = world.client.task_view(world.task)
    assert (view.status, view.pool_left, view.rewards_root) == (TaskStatus.CLOSED, 0, second.rewards_root)
    assert world.client.settle(second, 0b1111, b"") == world.client.settle(second, 0b1111, b"")
    for i in range(5):
        claim(world, i, world.earned)
        world.do(world.members[i], lambda s, c: transactions.release(s, c, world.task, s.address))
    owned = world.client.balances([member.address for member in world.members])
    stakes = [3_000, 3_000, 2_700, 3_000, 3_000]
    assert list(owned.values()) == [(stake + 80) * TOKEN + i for i, stake in enumerate(stakes)]
    assert [world.client.context(member.address).free_stake // TOKEN for member in world.members] == stakes
    info = world.client.info()
    assert set(world.client.wallet_balances([info.task, info.settlement, info.distributor]).values()) == {0}
    assert total(world) == supply == world.client.total_supply()


def claim(world: World, member: int, earned: dict[str, int], to_pool: bool = False) -> None:
    signer = world.members[member]
    amount = earned[signer.address]
    _, tree = world.report(earned)
    proof = tree.proof(reward_leaf(world.domain, world.task, signer.address, amount))
    world.do(signer, lambda s, c: transactions.claim(s, c, world.task, signer.address, amount, proof, to_pool))


def blocks(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "chain" / "blocks.jsonl").read_text().splitlines()]


def test_the_life_of_a_task_is_the_same_in_every_run(backend: str, tmp_path: Path) -> None:
    for run in ("one", "two"):
        world = World(spec(backend), tmp_path / run)
        world.deploy()
        play(world)
        state, info = world.client.task_view(world.task), world.client.info()
        raws = [bytes.fromhex(raw) for block in blocks(tmp_path / run) for raw in block["raws"]]
        receipts = world.client.broadcast(raws, 2)
        world.client.close()
    assert blocks(tmp_path / "one") == blocks(tmp_path / "two")
    for raw, receipt in zip(raws, receipts, strict=True):
        assert receipt.gas_used < 0.9 * TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["gas"]

    contracts = {"token": info.token, "task": info.task, "settlement": info.settlement}
    again = ChainClient(replace(spec("auto"), **contracts), str(tmp_path / "one"))
    assert (again.task_view(world.task), again.info()) == (state, info)
    assert again.broadcast(raws, 2) == receipts
    assert blocks(tmp_path / "one") == blocks(tmp_path / "two")
    again.close()


def test_eight_members_are_set_up_within_three_seconds(tmp_path: Path) -> None:
    begin = time.process_time()
    world = World(spec("eth_tester", num_members=8), tmp_path, num_members=8)
    world.deploy()
    world.create()
    assert time.process_time() - begin < 3
    world.client.close()


def test_reverts_are_told_by_the_contracts_errors(world: World) -> None:
    other, missing, member = world.create(), keccak(b"no such task"), world.members[0]
    huge = replace(world.client.task_view(other).terms, pool=2 * 10**24 + 1)

    def too_much(signer: Signer, context: TxContext) -> list[bytes]:
        return transactions.create_task(signer, replace(context, token_balance=huge.pool), huge, missing)

    cases = [
        (world.creator, lambda s, c: transactions.start(s, c, missing), r"WrongStatus\(expected=1, got=0\)"),
        (member, lambda s, c: transactions.release(s, c, other, s.address), r"WrongStatus\(expected=4, got=3\)"),
        (world.creator, too_much, r"PoolTooLarge\(maximum=20{24},"),
        (world.creator, lambda s, c: transactions.claim(s, c, missing, s.address, 1, []), r"InvalidProof\(task=0x"),
    ]  # fmt: skip
    for signer, make, reason in cases:
        with pytest.raises(ChainError, match=f"transaction 0x[0-9a-f]{{64}} reverted: {reason}"):
            world.do(signer, make)


def test_a_stake_below_the_minimum_is_a_question_of_funds(world: World) -> None:
    member = world.members[0]
    terms, creator = replace(world.client.task_view(world.create()).terms, pool=0), world.creator.address
    task, seed = terms.task_id(creator, keccak(b"seed")), keccak(b"seed")
    world.do(world.creator, lambda s, c: transactions.create_task(s, c, terms, seed))
    world.do(world.creator, lambda s, c: transactions.transfer(s, c, [(member.address, 10 * TOKEN)]))
    with pytest.raises(
        FundsError, match=r"InsufficientStake\(required=3000000000000000000000, given=10000000000000000000\)"
    ):
        world.do(member, lambda s, c: transactions.join(s, c, task, 10 * TOKEN, seed, terms.digest(creator), 1))


def test_a_member_with_delegators_is_paid_through_its_pool(world: World) -> None:
    operator, delegator = world.members[:2]
    vault, token = world.client.info().vault, world.client.info().token

    def act(signer: Signer, name: str, to: str, function: str, *args: object) -> None:
        data = contract(name).encode(function, *args)
        world.do(signer, lambda s, c: [transactions.call(s, c, to, data, 300_000)])

    world.do(world.creator, lambda s, c: transactions.transfer(s, c, [(delegator.address, 1_000 * TOKEN)]))
    act(operator, "StakeVault", vault, "setAcceptance", True)
    act(operator, "StakeVault", vault, "addCreator", world.creator.address)
    act(delegator, "FlockToken", token, "approve", vault, 1_000 * TOKEN)
    act(delegator, "StakeVault", vault, "delegate", operator.address, 1_000 * TOKEN)
    world.epoch = COMMISSION_DELAY * VAULT_EPOCH // SECONDS_PER_EPOCH + 1  # its pool serves the creator from now on
    world.do(world.creator, lambda s, c: transactions.transfer(s, c, [(operator.address, 1_000 * TOKEN)]))
    act(operator, "FlockToken", token, "approve", vault, 1_000 * TOKEN)
    act(operator, "StakeVault", vault, "stake", 1_000 * TOKEN)
    assert world.client.context(operator.address).free_stake == 1_000 * TOKEN
    assert world.client.context(operator.address, world.creator.address).free_stake == 2_000 * TOKEN
    world.create()
    addresses = [member.address for member in world.members]
    member = world.client.task_view(world.task).members[0]
    assert (member.stake, member.delegated) == (3_000 * TOKEN, 1_000 * TOKEN)  # of 2,000 and 1,000 that are free
    assert world.client.wallet_balances(addresses[:2]) == dict(zip(addresses, (2_000 * TOKEN, 0), strict=False))
    assert world.client.paid_to_pool(world.task, addresses) == {operator.address}
    assert world.client.context(operator.address, world.creator.address).free_stake == 0

    world.earned = {address: 30 * TOKEN for address in addresses}
    world.settle(world.report(slashes=[ReportedSlash(0, 2_500 * TOKEN)])[0])  # its own, and half of its delegator's
    assert world.client.task_view(world.task).escrow == 1_800 * TOKEN
    assert world.client.wallet_balances([SINK])[SINK] == 500 * TOKEN
    world.settle(world.report()[0])
    assert world.client.wallet_balances([SINK])[SINK] == 2_300 * TOKEN
    with pytest.raises(ChainError, match=rf"reverted: PaidToPool\(account={operator.address.lower()}\)"):
        claim(world, 0, world.earned)
    claim(world, 0, world.earned, to_pool=True)
    assert world.client.claimed(world.task, addresses[:2]) == dict(zip(addresses, (30 * TOKEN, 0), strict=False))
    earned = world.client._read("StakeVault", vault, "pendingRewards", operator.address, delegator.address)[0]
    assert earned + 1 >= 30 * TOKEN  # all stake that is left in the pool
    assert world.client.releasable(world.task)
    world.do(delegator, lambda s, c: transactions.release(s, c, world.task, operator.address))
    assert world.client._read("StakeVault", vault, "lockOf", world.task, operator.address) == ((0, 0),)


def test_a_transaction_for_another_chain_is_refused(world: World) -> None:
    context = replace(world.client.context(world.creator.address), chain_id=1)
    with pytest.raises(WrongChainError, match="signed for chain id 1, this chain is"):
        world.client.broadcast(transactions.start(world.creator, context, keccak(b"task")), 0)


def test_before_the_contracts_are_there(tmp_path: Path) -> None:
    client = ChainClient(spec("eth_tester"), str(tmp_path))
    info = client.info()
    assert (info.backend, info.chain_id, info.token) == ("eth_tester", ETH_TESTER_CHAIN_ID, "")
    assert client.timestamp() == GENESIS_TIME
    assert client.context(info.relayer).nonce == 0
    with pytest.raises(ChainError, match="not deployed yet"):
        client.task_view(keccak(b"task"))
    client.close()
    client.close()


def test_long_lists_are_read_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.create(num_epochs=20)
    for member in world.members[:3]:
        world.do(member, lambda s, c: transactions.resign(s, c, world.task))
    view = world.client.task_view(world.task)
    monkeypatch.setattr(reader, "_PAGE", 2)
    assert world.client.task_view(world.task) == view
    for index, entry in enumerate(view.members):
        account, *rest = world.client.ask("TaskRegistry", "memberAt", world.task, index)
        assert MemberView(to_checksum_address(account), *rest) == entry
    assert [(change.member, change.leaves) for change in view.changes] == [(0, True), (1, True), (2, True)]


def test_an_unknown_task_is_empty(shared_world: World) -> None:
    view = shared_world.client.task_view(keccak(b"no such task"))
    assert (view.status, view.members, view.terms.pool) == (TaskStatus.NONE, (), 0)


def test_auto_takes_anvil_where_there_is_one(tmp_path: Path) -> None:
    client = ChainClient(spec("auto"), str(tmp_path))
    assert client.info().backend == ("anvil" if find_anvil() else "eth_tester")
    client.close()


def test_a_chain_goes_on_with_the_backend_that_made_it(tmp_path: Path) -> None:
    ChainClient(spec("eth_tester"), str(tmp_path)).close()
    client = ChainClient(spec("auto"), str(tmp_path))
    assert client.info().backend == "eth_tester"
    client.close()
    with pytest.raises(RunDirectoryError, match="another configuration"):
        ChainClient(spec("eth_tester", num_members=6), str(tmp_path))


@pytest.mark.anvil
def test_anvil_serves_the_chain_id_asked_for(tmp_path: Path) -> None:
    client = ChainClient(spec("anvil", chain_id=777), str(tmp_path))
    assert client.info().chain_id == 777
    client.close()
    with pytest.raises(WrongChainError, match=r"eth_tester serves chain id 131277322940537, chain\.chain_id is 777"):
        ChainClient(spec("eth_tester", chain_id=777), str(tmp_path / "other"))


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose eth_tester, anvil, rpc or auto"):
        ChainClient(spec("none"), str(tmp_path))
