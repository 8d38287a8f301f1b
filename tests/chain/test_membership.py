"""Members join and leave while a task runs: the contract and the members' own list of slots agree, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flock_ray.chain import transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.eip712 import report_digest
from flock_ray.chain.embedded import GENESIS_TIME, SECONDS_PER_EPOCH
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.keys import compact
from flock_ray.chain.merkle import MerkleTree
from flock_ray.chain.values import TaskStatus, TaskView
from flock_ray.errors import ChainError
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.roles import draw_seats
from flock_ray.protocol.roster import Change, Roster, due_epoch, founders
from tests.chain.world import TOKEN, World, spec

pytestmark = pytest.mark.chain

MEMBERS, NUM_VOTERS, MAX_UNSETTLED, STAKE = 9, 4, 1, 10 * TOKEN
TASKS = count()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Nine members with tokens for many tasks, in the in-process EVM."""
    made = World(spec("eth_tester", num_members=MEMBERS), tmp_path_factory.mktemp("members"), MEMBERS)
    made.deploy()
    grants = [(member.address, 1_000 * TOKEN) for member in made.members]
    made.do(made.creator, lambda s, c: transactions.transfer(s, c, grants))
    yield made
    made.client.close()


def begin(world: World, slots: Sequence[int], num_epochs: int = 30) -> bytes:
    """A running task; its first members have so many slots."""
    return world.create(
        slots, terms_hash=keccak(b"membership %d" % next(TASKS)),
        min_stake=STAKE, max_slots=3, num_voters=NUM_VOTERS, min_members=1, max_members=MEMBERS,
        num_epochs=num_epochs, max_unsettled=MAX_UNSETTLED, pool=0,
    )  # fmt: skip


def resign(world: World, task: bytes, member: int) -> None:
    world.do(world.members[member], lambda s, c: transactions.resign(s, c, task))


def settle(world: World, task: bytes) -> None:
    """Settle the next epoch by the committee of the client's own view."""
    report, _ = world.report({}, task=task)
    world.settle(report)


def settle_by(world: World, view: TaskView, task: bytes, roster: Roster, work: tuple[int, int]) -> None:
    """Settle the next epoch by the committee of these slots; the contract takes no other's signatures."""
    report = Report(
        task, view.last_settled + 1, view.last_report, view.seed, keccak(b"reveals"), MerkleTree([]).root, 0, (),
        keccak(b"model"), keccak(b"record"), world.client.info().relayer,
    )  # fmt: skip
    digest = report_digest(world.domain, report)
    seats = draw_seats(view.seed, task, report.epoch, len(roster.owners), NUM_VOTERS)
    signers = [world.members[roster.owners[seat]] for seat in seats]
    signatures = b"".join(compact(signer.sign_digest(digest)) for signer in signers)
    world.client.settle(report, 0b1111, signatures, work)


def abandon(world: World, view: TaskView, task: bytes) -> None:
    """Give up the next epoch after its time."""
    late = view.epoch_start + (MAX_UNSETTLED + 1) * view.terms.epoch_deadline + SECONDS_PER_EPOCH
    world.epoch = (late - GENESIS_TIME) // SECONDS_PER_EPOCH
    data = contract("EpochSettlement").encode("abandon", task, view.last_settled + 1)
    world.do(world.creator, lambda s, c: [transactions.call(s, c, world.domain.contract, data, 300_000)])


def owners_on_chain(world: World, view: TaskView, task: bytes) -> list[str]:
    registry = world.client.info().task
    return list(world.client._read("TaskRegistry", registry, "slotOwners", task, list(range(view.num_slots)))[0])


def committee_on_chain(world: World, task: bytes) -> list[str]:
    """Of the next epoch, at whose settlement nobody joins or leaves."""
    return list(world.client._read("EpochSettlement", world.domain.contract, "committee", task)[0])


ACTIONS = st.lists(
    st.sampled_from(["settle"] * 3 + ["abandon"] + ["join"] * 2 + ["resign"] * 2), min_size=8, max_size=8
)


@settings(max_examples=3, derandomize=True, database=None, phases=[Phase.generate])  # to shrink takes far too long
@given(st.lists(st.integers(1, 3), min_size=5, max_size=6), ACTIONS, st.data())
def test_slots_and_committees_are_those_of_the_contract(
    world: World, counts: list[int], actions: list[str], data: st.DataObject
) -> None:
    task = begin(world, counts)
    slots, here, asked = list(counts), set(range(len(counts))), list[Change]()
    roster = Roster(founders(counts))

    def ask(member: int, leaves: bool) -> None:
        due = due_epoch(view.last_settled, MAX_UNSETTLED)
        asked.append(Change(member, slots[member], due, leaves))
        (here.remove if leaves else here.add)(member)

    view, applied = world.client.task_view(task), 0
    for action in [*actions, *["settle"] * (MAX_UNSETTLED + 3)]:
        if action == "join" and len(slots) < MEMBERS:
            slots.append(data.draw(st.integers(1, 3)))
            world.join(world.members[len(slots) - 1], STAKE * slots[-1], slots[-1], task)
            ask(len(slots) - 1, leaves=False)
        elif action == "resign" and here:
            member = data.draw(st.sampled_from(sorted(here)))
            resign(world, task, member)
            ask(member, leaves=True)
        if action not in ("settle", "abandon"):
            continue
        roster = Roster(roster.slots, tuple(asked[applied:]))
        if action == "abandon" and view.skips < 2:
            abandon(world, view, task)
        else:
            work = roster.work(view.last_settled + 1)
            roster = roster.settled(view.last_settled + 1)
            applied = len(asked) - len(roster.waiting)
            settle_by(world, view, task, roster, work)
        view = world.client.task_view(task)
        assert (view.roster, view.changes, view.num_applied) == (roster, tuple(asked), applied)
        accounts = [member.account.lower() for member in view.members]
        assert owners_on_chain(world, view, task) == [accounts[member] for member in roster.owners]
        following = roster.settled(view.last_settled + 1)
        assert (view.status is TaskStatus.RUNNING) == (len(following.slots) > NUM_VOTERS)
        if view.status is not TaskStatus.RUNNING:
            break
        if following.waiting == roster.waiting:
            seats = draw_seats(view.seed, task, view.last_settled + 1, len(roster.slots), NUM_VOTERS)
            assert committee_on_chain(world, task) == [accounts[roster.owners[seat]] for seat in seats]


def test_a_leaver_gets_its_stake_while_the_task_runs(world: World) -> None:
    task = begin(world, [1] * 6)
    free = world.client.context(world.members[2].address).free_stake
    resign(world, task, 2)
    leaver = world.members[2]

    def release() -> None:
        world.do(leaver, lambda s, c: transactions.release(s, c, task, s.address))

    for _ in range(3):
        with pytest.raises(ChainError, match=r"WrongStatus\(expected=4, got=3\)"):
            release()
        settle(world, task)
    settle(world, task)
    view = world.client.task_view(task)
    assert (view.members[2].leaving, view.members[2].stake, view.num_slots) == (True, STAKE, 5)
    assert view.members[2].left_at == world.client.timestamp()
    assert not view.members[3].leaving
    release()  # this chain has no evidence window
    assert world.client.context(leaver.address).free_stake == free + STAKE
    with pytest.raises(ChainError, match="NothingToRelease"):
        release()
    settle(world, task)


def test_a_change_that_comes_too_late_is_refused(world: World) -> None:
    task = begin(world, [1] * 6, num_epochs=4)
    settle(world, task)
    with pytest.raises(ChainError, match=r"TooLate\(epoch=5, numEpochs=4\)"):
        resign(world, task, 0)
    with pytest.raises(ChainError, match=r"TooLate\(epoch=5, numEpochs=4\)"):
        world.join(world.members[6], STAKE, 1, task)


def test_a_slash_before_a_joiner_counts_is_not_in_what_it_joined_with(world: World) -> None:
    task = begin(world, [1] * 6)
    world.join(world.members[6], STAKE, 1, task)
    report, _ = world.report({}, [ReportedSlash(6, STAKE // 4)], task)
    world.settle(report)
    [now], [then] = world.client.members(task, [6]), world.client.joined(task, [6])
    assert (now.stake, then.stake, then.delegated) == (STAKE - STAKE // 4, STAKE, 0)
    assert then.account == world.members[6].address and then.chain_tip == now.chain_tip
