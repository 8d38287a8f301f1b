"""What the driver's ledger makes of members that come and go: a real chain, its actor in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flock_ray.chain import transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.config import AllianceConfig, Config
from flock_ray.errors import ChainUnreachableError
from flock_ray.protocol.epoch import skip
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.state import TaskState
from flock_ray.verify.membership import first_slots
from tests.chain.world import RUN_SEED
from tests.cluster.test_joining import MEMBERS, Bench, Killed

pytestmark = pytest.mark.chain

ALLIANCE = AllianceConfig(num_members=MEMBERS, candidates=1, num_epochs=9, num_proposers=1, max_unsettled=1)
CONFIG = Config(seed=RUN_SEED, alliance=ALLIANCE)


class Market(Bench):
    """A run's ledger, and others that use its contracts by themselves."""

    def send(self, signer: Signer, function: str, *args: object) -> None:
        context = self.client.context(signer.address)
        data = contract("TaskRegistry").encode(function, *args)
        self.client.broadcast([transactions.call(signer, context, context.task, data, 400_000)], 0)

    def join(self, signer: Signer) -> None:
        """As the command `flock-ray task join` does."""
        task, view = self.ledger._task, self.client.task_view(self.ledger._task)
        context = self.client.context(signer.address, view.creator)
        stake, tip = view.terms.min_stake, keccak(signer.address.encode())
        self.client.broadcast(transactions.join(signer, context, task, stake, tip, view.digest, 1), 0)

    @property
    def candidate(self) -> Signer:
        return self.members.signers[MEMBERS]

    def owners_on_chain(self) -> list[str]:
        slots = list(range(self.client.task_view(self.ledger._task).num_slots))
        found = self.client._read("TaskRegistry", self.client.info().task, "slotOwners", self.ledger._task, slots)
        return list(found[0])


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    made = Market("eth_tester", tmp_path, CONFIG)
    yield made
    made.client.close()


def owners(state: TaskState) -> list[str]:
    return [state.members[member].account.lower() for member in state.slot_owners]


def created_only(market: Market) -> None:
    """The task is created, and nobody has joined."""
    market.kill_at = "broadcast member-0", 1
    with pytest.raises(Killed):
        market.create_task()
    market.kill_at = "", 0


def test_who_joins_and_cancels_before_the_start_moves_the_slots_of_those_after_it(market: Market) -> None:
    created_only(market)
    market.join(market.candidate)
    market.send(market.candidate, "cancelJoin", market.ledger._task)
    state = market.create_task()
    assert [change.leaves for change in state.before_start] == [True] + [False] * MEMBERS
    assert len(state.members) == MEMBERS + 1 and owners(state) == market.owners_on_chain()
    assert state.roster.slots == first_slots(state.members, state.before_start)
    assert market.ledger.changes(state) == ([], [])


def test_a_member_that_joined_after_the_start_is_no_first_one_for_a_run_that_lost_its_folder(market: Market) -> None:
    first = market.create_task()
    market.join(market.candidate)
    market.reopen()
    state = market.create_task()
    assert state == first and len(state.members) == MEMBERS
    for _ in range(3):
        assert market.ledger.changes(state) == ([], [])
        state = skip(state)
    [change], [joined] = market.ledger.changes(state)
    assert (change.member, change.epoch, joined.account) == (MEMBERS, 4, market.candidate.address)


def test_who_cannot_join_is_told_and_the_run_goes_on(market: Market) -> None:
    state = market.create_task()
    told: list[str] = []
    market.ledger.tell = told.append
    creator, context = run_signer(RUN_SEED, "creator"), market.client.context(market.candidate.address)
    spent = transactions.transfer(market.candidate, context, [(creator.address, state.terms.min_stake)])
    market.client.broadcast(spent, 0)
    market.ledger.ask_changes([MEMBERS], [0], market.members)
    [line] = told
    assert line.startswith(f"member-{MEMBERS} ({market.candidate.address}) asked to join and was refused: ")
    assert "has 0 tokens, needs" in line and "\n" not in line
    assert [change.member for change in market.client.task_view(market.ledger._task).changes] == [0]


def test_a_chain_that_is_away_does_not_hold_an_epoch_up_whose_changes_are_known(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = market.create_task()

    def away(method: str, *args: object) -> None:
        raise ChainUnreachableError("away")

    monkeypatch.setattr(market.ledger, "_ask", away)
    for _ in range(ALLIANCE.max_unsettled + 2):  # what is asked for now counts later
        assert market.ledger.changes(state) == ([], [])
        state = skip(state)
    with pytest.raises(ChainUnreachableError):
        market.ledger.changes(state)
    market.ledger._read_after = 1
    assert market.ledger.changes(state) == ([], [])
