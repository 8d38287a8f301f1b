"""Python and the contracts side by side on an embedded EVM: whatever the tables, draws and reports, they agree."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import astuple, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.chain import transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.eip712 import report_digest, report_hash
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.merkle import reward_leaf
from flock_ray.protocol.roles import draw_seats
from flock_ray.protocol.seed import next_seed, reveals_digest
from tests.chain.test_eip712 import reports
from tests.chain.vectors import account
from tests.chain.world import World, spec

pytestmark = pytest.mark.chain

words = st.binary(min_size=32, max_size=32)
gains = st.dictionaries(st.integers(0, 30).map(account), st.integers(0, 10**15), min_size=1, max_size=8)
reveals = st.dictionaries(st.integers(0, 4), words, max_size=4)


@pytest.fixture(scope="module")
def paying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A task that lasts longer than the examples; `earned` grows from one to the next."""
    made = World(spec("eth_tester"), tmp_path_factory.mktemp("paying"))
    made.deploy()
    made.create(num_epochs=500)
    yield made
    made.client.close()


def settle_and_claim(world: World, gained: dict[str, int], revealed: dict[int, bytes], choice: int) -> None:
    """One more epoch under a table that grew; some of its accounts are paid by one proof, one of them by its own."""
    for who, wei in gained.items():
        world.earned[who] = world.earned.get(who, 0) + wei
    report, tree = world.report()
    report = replace(report, reveals_digest=reveals_digest(revealed))
    world.settle(report)
    assert world.client.task_view(world.task).seed == next_seed(report.seed, reveals_digest(revealed))

    leaves = {reward_leaf(world.domain, world.task, who, wei): who for who, wei in world.earned.items()}
    rng = random.Random(choice)  # what hypothesis draws may not depend on the examples before
    chosen = rng.sample(sorted(leaves), rng.randint(1, len(leaves)))
    ordered, proof, flags = tree.multiproof(chosen)
    accounts = [leaves[leaf] for leaf in ordered]
    amounts = [world.earned[who] for who in accounts]
    many = contract("RewardDistributor").encode("claimMany", world.task, accounts, amounts, proof, flags)
    before = world.client.claimed(world.task, list(world.earned))
    raws = [lambda s, c: [transactions.call(s, c, world.domain.distributor, many, 4_000_000)]]
    single = leaves[rng.choice(sorted(leaves))]
    expected = before | {who: world.earned[who] for who in accounts}
    if world.earned[single] > expected[single]:
        own = tree.proof(reward_leaf(world.domain, world.task, single, world.earned[single]))
        raws.append(lambda s, c: transactions.claim(s, c, world.task, single, world.earned[single], own))
        expected[single] = world.earned[single]
    for make in raws:
        world.do(world.creator, make)
    assert world.client.claimed(world.task, list(world.earned)) == expected
    assert world.client.wallet_balances(list(world.earned)) == expected
    view = world.client.task_view(world.task)
    assert (view.committed, view.claimed) == (sum(world.earned.values()), sum(expected.values()))


@settings(max_examples=6)
@given(gained=gains, revealed=reveals, choice=st.integers(0, 2**32))
def test_tables_of_rewards_are_paid(
    paying: World, gained: dict[str, int], revealed: dict[int, bytes], choice: int
) -> None:
    settle_and_claim(paying, gained, revealed, choice)


@pytest.mark.deep
@settings(max_examples=60)
@given(gained=gains, revealed=reveals, choice=st.integers(0, 2**32))
def test_many_tables_of_rewards_are_paid(
    paying: World, gained: dict[str, int], revealed: dict[int, bytes], choice: int
) -> None:
    settle_and_claim(paying, gained, revealed, choice)


@pytest.mark.deep
@settings(max_examples=1_000)
@given(seed=words, task=words, epoch=st.integers(0, 2**64 - 1), num_slots=st.integers(1, 2**32 - 1), data=st.data())
def test_many_seats_are_drawn_alike(
    shared_world: World, seed: bytes, task: bytes, epoch: int, num_slots: int, data: st.DataObject
) -> None:
    asked = (seed, task, epoch, num_slots, data.draw(st.integers(0, min(num_slots, 60))))
    drawn = shared_world.client._read("EpochSettlement", shared_world.domain.contract, "drawSeats", *asked)[0]
    assert drawn == draw_seats(*asked)


@pytest.mark.deep
@settings(max_examples=500)
@given(report=reports)
def test_many_reports_hash_alike(shared_world: World, report: Report) -> None:
    asked = ("EpochSettlement", shared_world.domain.contract)
    assert shared_world.client._read(*asked, "reportHash", astuple(report))[0] == report_hash(report)
    digest = report_digest(shared_world.domain, report)
    assert shared_world.client._read(*asked, "reportDigest", astuple(report))[0] == digest
