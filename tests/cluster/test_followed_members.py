"""The epoch loop follows whom the chain lets in and out, also after abandoned epochs, refusals and a resumed run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.alliance import Alliance
from flock_ray.chain.eip712 import Domain
from flock_ray.chain.values import EpochAbandonedError
from flock_ray.cluster import epoch_loop
from flock_ray.cluster.attestation import Settlement
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.running_task import RunningTask
from flock_ray.config import AllianceConfig, AskedChange
from flock_ray.errors import ChainError
from flock_ray.protocol.epoch import skip
from flock_ray.protocol.roster import Change, due_epoch
from flock_ray.protocol.state import MemberState, TaskState
from tests.protocol.players import STAKE, account, chain_of, new_task

pytestmark = pytest.mark.model  # the loop imports it

MEMBERS, CANDIDATES, EPOCHS, MAX_UNSETTLED = 8, 3, 14, 1
DOMAIN = Domain(1, "0x" + "11" * 20, "0x" + "22" * 20)


class Chain:
    """A contract that queues changes, refuses some candidates, and has abandoned some epochs when they come."""

    def __init__(self, refused: Collection[int] = (), abandoned: Collection[int] = ()) -> None:
        self.refused, self.abandoned = set(refused), set(abandoned)
        self.changes: list[Change] = []
        self.numbers = {silo: silo for silo in range(MEMBERS)}
        self.last_settled = 0
        self.asked: set[tuple[int, bool]] = set()

    def ask(self, silo: int, leaves: bool) -> None:
        self.asked.add((silo, leaves))
        due = due_epoch(self.last_settled, MAX_UNSETTLED)
        if silo in self.refused or due > EPOCHS:
            return
        if not leaves and silo not in self.numbers:
            self.numbers[silo] = len(self.numbers)
            self.changes.append(Change(self.numbers[silo], 1, due, leaves=False))
        elif (
            leaves
            and silo in self.numbers
            and not any(change.leaves and change.member == self.numbers[silo] for change in self.changes)
        ):
            self.changes.append(Change(self.numbers[silo], 1, due, leaves=True))


class ChainLedger:
    """What the loop needs of it."""

    domain, relayer = DOMAIN, "0x" + "33" * 20

    def __init__(self, chain: Chain) -> None:
        self.chain, self._open = chain, list[int]()

    def ask_changes(self, joins: Collection[int], leaves: Collection[int], nodes: Any) -> None:
        for silo in joins:
            self.chain.ask(silo, leaves=False)
        for silo in leaves:
            self.chain.ask(silo, leaves=True)

    def changes(self, state: TaskState) -> tuple[Sequence[Change], Sequence[MemberState]]:
        due = [one for one in self.chain.changes[state.num_changes :] if one.epoch <= state.epoch]
        silos = {number: silo for silo, number in self.chain.numbers.items()}
        joined = [silos[change.member] for change in due if not change.leaves]
        return due, [MemberState(account(silo), 1, chain_of(silo).tip, STAKE) for silo in joined]

    def settle(self, state: TaskState, record: Any, attestation: Any) -> None:
        self._open.append(state.epoch)

    def settled(self, at_most_open: int) -> Iterable[Settlement]:
        while len(self._open) > at_most_open:
            epoch = self._open.pop(0)
            if epoch in self.chain.abandoned:
                raise EpochAbandonedError(epoch)
            self.chain.last_settled = epoch
            yield Settlement(epoch, "0x", 1)

    def follow(self, state: TaskState) -> TaskState:
        self._open.clear()
        while state.epoch in self.chain.abandoned:
            self.chain.last_settled = state.epoch
            state = skip(state)
        return state


class Nodes:
    """Nodes that remember what they took up."""

    def __init__(self) -> None:
        self.task: RunningTask | None = None

    def begin(self, task: RunningTask) -> Iterable[Any]:
        self.task = task
        return ()

    def place(self, task: RunningTask) -> None:
        pass


class Coordinator:
    def begin(self, task: RunningTask) -> None:
        pass


class Stopped(Exception):
    """The driver was killed."""


class Loop(Alliance):
    """Epochs are only counted; it is killed before `stop_at`, and remembers who was in each epoch."""

    def __init__(self, chain: Chain, config: AllianceConfig, stop_at: int = 0) -> None:
        owners = {account(silo): silo for silo in range(MEMBERS + CANDIDATES)}
        nodes: Any = Nodes()
        parts: Any = (nodes, Coordinator, ChainLedger(chain), Journal(), Observer(), config, owners)
        super().__init__(*parts)
        self.stop_at, self.inside, self.states = stop_at, dict[int, list[int]](), dict[int, TaskState]()

    def epoch(self, task: RunningTask) -> RunningTask:
        nodes: Any = self.nodes
        assert nodes.task is not None and nodes.task.state == task.state, "nodes play another state than the loop"
        state = task.state
        if state.epoch == self.stop_at:
            raise Stopped
        self._remember(state)
        self.states[state.epoch] = state
        self.inside[state.epoch] = sorted({task.silos[member] for member in state.slot_owners})
        record: Any = None
        self.ledger.settle(state, record, record)
        nodes.task = task.at(signed(state))
        return task.at(signed(state))


def signed(state: TaskState) -> TaskState:
    """After an epoch whose changes were applied."""
    return replace(skip(state), roster=state.applied, changes=())


class Journal:
    def write_settlement(self, settlement: Settlement) -> None:
        pass

    def write_abandoned(self, first: int, following: int) -> None:
        pass


def begin(loop: Loop, state: TaskState | None = None, silos: dict[int, int] | None = None) -> TaskState:
    state = state or new_task(MEMBERS, num_epochs=EPOCHS, max_unsettled=MAX_UNSETTLED)
    silos = silos or {number: number for number in range(MEMBERS)}
    return loop.run(RunningTask(state, DOMAIN, "0x" + "33" * 20, silos))


@st.composite
def plans(draw: st.DrawFn) -> AllianceConfig:
    """Who asks to come and go when."""
    config = AllianceConfig(num_members=MEMBERS, candidates=CANDIDATES, num_epochs=EPOCHS, max_unsettled=MAX_UNSETTLED)
    last = EPOCHS - MAX_UNSETTLED - 2
    for silo in range(MEMBERS, MEMBERS + CANDIDATES):
        if epoch := draw(st.integers(0, last - 1)):
            config.joins.append(AskedChange(epoch, [silo]))
            if draw(st.booleans()):
                config.leaves.append(AskedChange(draw(st.integers(epoch + 1, last)), [silo]))
    for silo in range(2):
        config.leaves.append(AskedChange(draw(st.integers(1, last)), [silo]))
    return config


@settings(max_examples=60, deadline=None)
@given(plans(), st.sets(st.integers(2, EPOCHS - 1), max_size=4), st.sets(st.integers(MEMBERS, MEMBERS + 2), max_size=1))
def test_everybody_comes_and_goes_when_the_contract_says(
    config: AllianceConfig, abandoned: set[int], refused: set[int]
) -> None:
    chain = Chain(refused, abandoned)
    loop = Loop(chain, config)
    begin(loop)
    planned = {(silo, False) for one in config.joins for silo in one.silos}
    assert chain.asked == planned | {(silo, True) for one in config.leaves for silo in one.silos}
    if not abandoned:
        assert len(chain.changes) == sum(silo not in refused for silo, _ in chain.asked)
    silos = {number: silo for silo, number in chain.numbers.items()}
    for epoch, inside in loop.inside.items():
        if epoch in abandoned:
            continue
        expected = set(range(MEMBERS))
        for change in chain.changes:
            if change.epoch <= epoch:
                (expected.discard if change.leaves else expected.add)(silos[change.member])
        assert inside == sorted(expected), epoch


@settings(max_examples=30, deadline=None)
@given(plans(), st.integers(2, EPOCHS - 1))
def test_a_resumed_run_has_the_members_of_one_that_was_not_killed(config: AllianceConfig, stop_at: int) -> None:
    whole = Loop(Chain(), config)
    begin(whole)
    killed = Loop(Chain(), config, stop_at)
    with pytest.raises(Stopped):
        begin(killed)
    chain = killed.ledger.chain  # type: ignore[attr-defined]
    state = signed(killed.states[stop_at - 1])  # what its records give: changes before it are not in them yet
    owners = {account(silo): silo for silo in range(MEMBERS + CANDIDATES)}
    silos = {number: owners[member.account] for number, member in enumerate(state.members)}
    again = Loop(chain, config)
    begin(again, state, silos)
    assert killed.inside | again.inside == whole.inside


def test_a_run_does_not_go_back_further_than_it_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_loop, "REMEMBERED", 3)
    loop = Loop(Chain(abandoned={1}), AllianceConfig(num_members=MEMBERS, num_epochs=EPOCHS, max_unsettled=9))
    with pytest.raises(ChainError, match="epoch 1 was abandoned after more than 3 later ones were signed"):
        begin(loop)
