"""Nodes enter a contest while it runs and leave it: the contract, the client's view and a plain model agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flock_ray.chain import transactions
from flock_ray.chain.epoch_report import ReportedSlash
from flock_ray.chain.merkle import reward_leaf
from flock_ray.chain.values import Entry, TaskStatus
from flock_ray.errors import ChainError, FundsError
from flock_ray.protocol.hashing import keccak, word
from flock_ray.protocol.roster import Change, Roster, due_epoch, founders
from tests.chain.world import TOKEN, World, spec

pytestmark = pytest.mark.chain

ACCOUNTS, MEMBERS, MAX_MEMBERS, MAX_UNSETTLED = 16, 6, 8, 1
STAKE, NODE_STAKE = 10 * TOKEN, 4 * TOKEN
TASKS = count()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Accounts with tokens for many contests, in the in-process EVM."""
    made = World(spec("eth_tester", num_members=ACCOUNTS), tmp_path_factory.mktemp("nodes"), ACCOUNTS)
    made.deploy()
    grants = [(account.address, 1_000 * TOKEN) for account in made.members]
    made.do(made.creator, lambda s, c: transactions.transfer(s, c, grants))
    yield made
    made.client.close()


def begin(world: World, node_stake: int = NODE_STAKE, num_epochs: int = 40) -> bytes:
    """A running contest of six members with a slot each."""
    return world.create(
        [1] * MEMBERS, node_stake, terms_hash=keccak(b"nodes %d" % next(TASKS)),
        min_stake=STAKE, num_voters=4, min_members=1, max_members=MAX_MEMBERS,
        num_epochs=num_epochs, max_unsettled=MAX_UNSETTLED, pool=100 * TOKEN,
    )  # fmt: skip


@dataclass
class Node:
    """What the model knows of a node."""

    entered: int
    stake: int
    leaves_from: int = 0
    out: bool = False  # its stake is released


@dataclass
class Model:
    """A contest as its rules have it; one account after the other comes, none twice."""

    world: World
    task: bytes
    accounts: list[int] = field(default_factory=lambda: list(range(MEMBERS)))
    nodes: dict[int, Node] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    last_settled: int = 0
    roster: Roster = field(default_factory=lambda: Roster(founders([1] * MEMBERS)))

    def tried(self, allowed: bool, act: Callable[[], object]) -> bool:
        """The contract refuses exactly what the rules refuse."""
        if not allowed:
            with pytest.raises(ChainError):
                act()
        else:
            act()
        return allowed

    def enter(self, amount: int) -> None:
        signer = self.world.members[len(self.accounts)]
        if self.tried(amount >= NODE_STAKE, lambda: self.world.enter(signer, amount, self.task)):
            self.nodes[len(self.accounts)] = Node(amount, amount)
            self.accounts.append(len(self.accounts))

    def come_again(self, index: int) -> None:
        signer = self.world.members[index]
        self.tried(False, lambda: self.world.enter(signer, NODE_STAKE, self.task))
        self.tried(False, lambda: self.world.join(signer, STAKE, task=self.task))

    def join(self) -> None:
        signer, index = self.world.members[len(self.accounts)], len(self.accounts)
        places = len(self.accounts) - len(self.nodes)
        if self.tried(places < MAX_MEMBERS, lambda: self.world.join(signer, STAKE, task=self.task)):
            self.changes.append(Change(index, 1, self.due, leaves=False))
            self.roster = self.roster.announced(self.changes[-1:])
            self.accounts.append(index)

    def resign(self, index: int) -> None:
        node, signer = self.nodes[index], self.world.members[index]
        act = lambda s, c: transactions.resign(s, c, self.task)  # noqa: E731
        if self.tried(not node.leaves_from, lambda: self.world.do(signer, act)):
            node.leaves_from = self.due

    def release(self, index: int) -> None:
        """This chain has no evidence window: one call does."""
        node, signer = self.nodes[index], self.world.members[index]
        act = lambda s, c: transactions.release(s, c, self.task, s.address)  # noqa: E731
        over = 0 < node.leaves_from <= self.last_settled
        if self.tried(over and not node.out and node.stake > 0, lambda: self.world.do(signer, act)):
            node.out, node.stake = True, 0

    def settle(self, slashed: int | None, amount: int) -> None:
        slashes = [] if slashed is None else [ReportedSlash(slashed, amount)]
        if slashed is not None:
            self.nodes[slashed].stake -= min(amount, self.nodes[slashed].stake)
        report, _ = self.world.report({}, slashes, self.task)
        self.world.settle(report)
        self.last_settled += 1
        self.roster = self.roster.settled(self.last_settled)

    @property
    def due(self) -> int:
        return due_epoch(self.last_settled, MAX_UNSETTLED)

    def check(self) -> None:
        """The chain says what the model says."""
        client = self.world.client
        view = client.task_view(self.task)
        addresses = [self.world.members[number].address for number in self.accounts]
        assert [member.account for member in view.members] == addresses
        assert {index: (node.stake, node.leaving) for index, node in view.nodes.items()} == {
            index: (node.stake, node.leaves_from > 0) for index, node in self.nodes.items()
        }
        assert all((node.slots, node.chain_tip) == (0, bytes(32)) for node in view.nodes.values())
        assert client.entries(self.task) == tuple(
            Entry(addresses[index], index, node.entered) for index, node in self.nodes.items()
        )
        for index, node in self.nodes.items():
            assert client.leaves_from(self.task, addresses[index]) == node.leaves_from
            assert (view.members[index].left_at > 0) == node.out
        assert [member.account for member in view.first_members] == addresses[:MEMBERS]
        assert (view.roster, view.changes) == (self.roster, tuple(self.changes))
        assert view.num_slots == len(self.roster.slots)
        assert (view.node_stake, view.status) == (NODE_STAKE, TaskStatus.RUNNING)


ACTS = st.lists(
    st.sampled_from(["enter"] * 4 + ["settle"] * 3 + ["join", "again", "resign", "resign", "release"]),
    min_size=10, max_size=10,
)  # fmt: skip


@settings(max_examples=2, derandomize=True, database=None, phases=[Phase.generate])  # to shrink takes far too long
@given(ACTS, st.data())
def test_whatever_nodes_do_the_contract_is_the_model(world: World, acts: list[str], data: st.DataObject) -> None:
    model = Model(world, begin(world))
    leaving = ["settle"] * (MAX_UNSETTLED + 3) + ["release"] * 2
    for act in ["enter", "enter", "resign", *acts, *leaving]:
        if act in ("enter", "join") and len(model.accounts) == ACCOUNTS:
            continue
        if act == "enter":
            model.enter(data.draw(st.sampled_from([NODE_STAKE - 1, NODE_STAKE, NODE_STAKE + 1, 2 * NODE_STAKE])))
        elif act == "join":
            model.join()
        elif act == "again":
            model.come_again(data.draw(st.sampled_from(model.accounts)))
        elif act == "settle":
            slashed = data.draw(st.sampled_from([None, *model.nodes]))
            model.settle(slashed, data.draw(st.integers(1, 2 * NODE_STAKE)))
        elif model.nodes:
            index = data.draw(st.sampled_from(sorted(model.nodes)))
            (model.resign if act == "resign" else model.release)(index)
        if act in ("settle", "resign"):
            model.check()
    model.check()


def test_a_node_is_paid_and_gets_its_stake_back_at_the_end(world: World) -> None:
    task = begin(world, num_epochs=2)
    node, idle = world.members[MEMBERS], world.members[MEMBERS + 1]
    free = world.client.context(node.address).free_stake
    world.enter(node, NODE_STAKE, task)
    earned = {node.address: 7 * TOKEN, world.members[0].address: 2 * TOKEN}
    for _ in range(2):
        report, tree = world.report(earned, task=task)
        world.settle(report)
    with pytest.raises(ChainError, match=r"WrongStatus\(expected=3, got=4\)"):
        world.enter(idle, NODE_STAKE, task)
    before = world.client.wallet_balances([node.address])[node.address]
    proof = tree.proof(reward_leaf(world.domain, task, node.address, 7 * TOKEN))
    world.do(world.creator, lambda s, c: transactions.claim(s, c, task, node.address, 7 * TOKEN, proof))
    assert world.client.wallet_balances([node.address])[node.address] == before + 7 * TOKEN
    world.do(world.creator, lambda s, c: transactions.release(s, c, task, node.address))
    assert world.client.ask("StakeVault", "lockedStake", task, node.address) == 0
    assert world.client.context(node.address).free_stake == max(free, NODE_STAKE)


def test_only_the_contest_that_is_meant_is_entered(world: World) -> None:
    contest, plain = begin(world), begin(world, node_stake=0)
    node = world.members[MEMBERS + 2]
    view = world.client.task_view(contest)
    digest = view.terms.digest(world.creator.address)
    assert view.digest == keccak(digest + word(NODE_STAKE)) == view.terms.digest(world.creator.address, NODE_STAKE)
    assert world.client.task_view(plain).node_stake == 0
    with pytest.raises(ChainError, match="NoNodes"):
        world.enter(node, NODE_STAKE, plain)
    with pytest.raises(ChainError, match="UnexpectedTerms"):
        world.do(node, lambda s, c: transactions.enter(s, c, contest, NODE_STAKE, digest))
    with pytest.raises(FundsError, match="needs 5000 for the stake"):
        context = world.client.context(node.address)
        transactions.enter(node, context, contest, 5_000 * TOKEN + context.free_stake, view.digest)


def test_a_leave_that_comes_too_late_is_refused(world: World) -> None:
    task = begin(world, num_epochs=4)
    node = world.members[MEMBERS]
    world.enter(node, NODE_STAKE, task)
    report, _ = world.report({}, task=task)
    world.settle(report)
    with pytest.raises(ChainError, match=r"TooLate\(epoch=5, numEpochs=4\)"):
        world.do(node, lambda s, c: transactions.resign(s, c, task))
