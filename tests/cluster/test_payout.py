"""The pay-out of a run on contracts whose roots pay only after a delay."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flock_ray.chain import transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.embedded import GENESIS_TIME, SECONDS_PER_EPOCH
from flock_ray.chain.values import RewardRoots
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.cluster.payout import PendingRewards
from flock_ray.cluster.phases import Phases
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.worker import Worker
from flock_ray.store.files import write_json
from tests.chain.world import TOKEN, World, spec

pytestmark = pytest.mark.chain

DELAY = 4 * SECONDS_PER_EPOCH
EARNED = [number * TOKEN for number in range(5)]  # the first one nothing
STAKE = 3_000 * TOKEN


class Members(Phases):
    """The members' processes."""

    def __init__(self, world: World, state: Any) -> None:
        self._host = SimpleNamespace(
            _state=state,
            _domain=world.domain,
            _hosting=SimpleNamespace(
                owners={number: SimpleNamespace(signer=signer) for number, signer in enumerate(world.members)}
            ),
        )

    def run(self, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        yield 0, getattr(Worker, method)(self._host, *args)

    def place(self, task: RunningTask) -> None:
        """They stay."""

    def resume_from(self, task: RunningTask) -> None:
        """They are not lost."""

    def epoch_signed(self) -> None:
        """They do not fail."""


def ledger_of(world: World) -> ChainLedger:
    """The driver's ledger, its chain actor in this process."""
    ledger = ChainLedger.__new__(ChainLedger)
    ledger._accounts = {number: signer.address for number, signer in enumerate(world.members)}
    ledger._info, ledger._task, ledger._pending = world.client.info(), world.task, None
    ledger._creator, ledger._tell = world.creator, print  # type: ignore[method-assign]
    ledger._ask = lambda method, *args: getattr(world.client, method)(*args)  # type: ignore[method-assign]
    return ledger


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A task of one epoch, settled, with rewards that wait."""
    monkeypatch.setattr(transactions, "ACTIVATION_DELAY", DELAY)
    world = World(spec("eth_tester"), tmp_path)
    world.deploy()
    world.create(num_epochs=1)
    report, _ = world.report({one.address: wei for one, wei in zip(world.members, EARNED, strict=True) if wei})
    world.settle(report)
    yield world
    world.client.close()


def state_of(world: World) -> Any:
    members = [SimpleNamespace(account=one.address, earned=wei) for one, wei in zip(world.members, EARNED, strict=True)]
    return SimpleNamespace(members=members, epoch=2, scope=SimpleNamespace(task=world.task))


def test_rewards_that_do_not_pay_yet_are_pending_and_claimed_later(closed: World, tmp_path: Path) -> None:
    state, ready_at = state_of(closed), closed.client.timestamp() + DELAY
    ledger, members = ledger_of(closed), Members(closed, state)
    ledger.pay_out(state, members)
    assert ledger.pending == PendingRewards(dict(enumerate(EARNED[1:], 1)), ready_at)
    when = datetime.fromtimestamp(ready_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    told = f"Rewards of 10 tokens are pending: they can be claimed from {when} on, with resume=run"
    assert ledger.pending.describe(Path("run")) == told
    assert ledger.facts()["rewards_pending"] == {"wei": 10 * TOKEN, "claimable_from": when}
    assert not any(member.stake for member in closed.client.task_view(closed.task).members)  # stakes are free at once
    assert list(ledger.balances(state).values()) == [STAKE + wei for wei in EARNED]

    state.epoch = 1 + (ready_at - GENESIS_TIME) // SECONDS_PER_EPOCH
    promote = contract("RewardDistributor").encode("promote", closed.task)
    closed.epoch = state.epoch
    closed.do(closed.creator, lambda s, c: [transactions.call(s, c, closed.domain.distributor, promote, 200_000)])
    later = ledger_of(closed)
    for _ in range(2):  # the second time nothing is left
        later.pay_out(state, members)
        assert later.pending is None and "rewards_pending" not in later.facts()
    paid = closed.client.wallet_balances([one.address for one in closed.members])
    assert list(paid.values()) == EARNED
    assert list(later.balances(state).values()) == [STAKE + wei for wei in EARNED]


def test_a_root_that_is_due_pays_before_anybody_promoted_it(closed: World) -> None:
    ready_at = closed.client.timestamp() + DELAY
    (root,) = closed.client.reward_roots(closed.task).pending
    closed.epoch = 1 + (ready_at - GENESIS_TIME) // SECONDS_PER_EPOCH
    closed.do(closed.creator, lambda s, c: transactions.transfer(s, c, [(s.address, 0)]))
    assert closed.client.reward_roots(closed.task) == RewardRoots(root, {})
    assert closed.client.task_view(closed.task).rewards_root != root


def test_a_root_that_was_disabled_pays_nobody(closed: World) -> None:
    guardian = contract("RewardDistributor").encode("GUARDIAN_ROLE")
    role = closed.client._node.call(closed.domain.distributor, guardian, closed.creator.address)
    (root,) = closed.client.reward_roots(closed.task).pending
    for function, *args in (("grantRole", role, closed.creator.address), ("disable", closed.task, root)):
        data = contract("RewardDistributor").encode(str(function), *args)
        closed.do(
            closed.creator,
            lambda s, c, data=data: [transactions.call(s, c, closed.domain.distributor, data, 200_000)],  # type: ignore[misc]
        )
    ledger, state = ledger_of(closed), state_of(closed)
    ledger.pay_out(state, Members(closed, state))
    assert ledger.pending is not None and ledger.pending.ready_at is None
    assert "disabled or corrected" in ledger.pending.describe(Path("run"))


def test_a_run_with_pending_rewards_is_not_whole(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert not run.whole
    for pending, whole in (({"rewards_pending": {"wei": 1}}, False), ({}, True)):
        write_json(run.summary, {"chain": {"backend": "rpc", **pending}})
        assert run.whole is whole


def test_everybody_is_paid_what_was_earned_so_far_while_the_task_runs(tmp_path: Path) -> None:
    world = World(spec("eth_tester"), tmp_path)
    world.deploy()
    world.create()
    world.earned = {one.address: wei for one, wei in zip(world.members, EARNED, strict=True) if wei}
    world.settle(world.report()[0])
    ledger = ledger_of(world)
    ledger._tables = {1: tuple(world.earned.items())}
    ledger._pay_everybody(1)
    addresses = [one.address for one in world.members]
    assert list(world.client.claimed(world.task, addresses).values()) == EARNED
    ledger._tables = {1: tuple(world.earned.items())[1:], 2: ()}  # of roots that do not pay
    ledger._pay_everybody(1)
    assert set(ledger._tables) == {1, 2}
    assert list(world.client.wallet_balances(addresses).values()) == EARNED
    world.client.close()


def test_who_cannot_be_paid_in_between_is_told_and_paid_at_the_end(
    closed: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = ledger_of(closed)
    earned = tuple((one.address, wei) for one, wei in zip(closed.members, EARNED, strict=True) if wei)
    ledger._tables = {1: earned}
    ledger._pay_everybody(1)  # the root does not pay yet
    assert not any(closed.client.claimed(closed.task, [one.address for one in closed.members]).values())
    root = RewardRoots(next(iter(closed.client.reward_roots(closed.task).pending)), {})
    with monkeypatch.context() as patch:
        patch.setattr(closed.client, "reward_roots", lambda task: root)
        ledger._pay_everybody(1)
    assert "rewards up to epoch 1 were not paid out yet: " in capsys.readouterr().out


def test_rewards_that_waited_are_paid_as_soon_as_their_root_pays(closed: World) -> None:
    ledger = ledger_of(closed)
    ledger._tables = {1: tuple((one.address, wei) for one, wei in zip(closed.members, EARNED, strict=True) if wei)}
    ledger._pay_everybody(1)
    assert set(ledger._tables) == {1}
    closed.epoch = 2 + DELAY // SECONDS_PER_EPOCH
    closed.do(closed.creator, lambda s, c: transactions.transfer(s, c, [(s.address, 1)]))
    ledger._pay_everybody(2)
    assert not ledger._tables
    assert list(closed.client.claimed(closed.task, [one.address for one in closed.members]).values()) == EARNED
