"""Strangers in a contest: their windows of a day are waited for, and what they hand in goes to the coordinator."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from flock_ray.chain.words import utc
from flock_ray.cluster.attestation import Bulletin
from flock_ray.cluster.contest_board import ContestBoard, OpenDay
from flock_ray.cluster.epoch_loop import AnyCoordinator
from flock_ray.cluster.interrupts import check_interrupted
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.phases import Results
from flock_ray.cluster.spec import PhaseResult
from flock_ray.errors import StoreError
from flock_ray.protocol.contest import statuses
from flock_ray.protocol.contest_entries import Status
from flock_ray.protocol.contest_message import ContestKind, ContestMessage
from flock_ray.protocol.contest_state import ContestState, Window
from flock_ray.protocol.message import SignedMessage
from flock_ray.protocol.state import TaskState
from flock_ray.store.failures import StoreUnavailableError
from flock_ray.store.retry import retried

NOBODY = -1
"""Index of what comes from no node group."""

_LOOK = 0.2  # seconds between two looks at the clock
_PHASES = {
    ContestKind.COMMITMENT: "commit",
    ContestKind.ACKNOWLEDGEMENT: "acknowledge",
    ContestKind.MANIFEST: "reveal",
    ContestKind.GATE: "gate",
}


class Strangers(Observer):
    """Training nodes whose keys this run does not hold; they take part by the files of `ContestBoard`."""

    def __init__(
        self,
        board: ContestBoard,
        own: Sequence[str],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Wait for nobody yet.

        Args:
            board: of the contest.
            own: accounts whose keys this run holds.
            tell: takes a line for people.
            clock: Unix time.
        """
        self._board, self._own, self._tell, self._clock = board, {account.lower() for account in own}, tell, clock
        self._state: ContestState
        self._day: OpenDay

    def epoch_begins(self, state: TaskState) -> None:
        """Tell what a day starts from, and when."""
        assert isinstance(state, ContestState)
        self._state, self._day = state, self._board.post_day(state, int(self._clock()))

    def results(self, kind: ContestKind) -> Results:
        """Wait until the window of a kind is over; what strangers handed in by then, as one more node's result."""
        window = phase_of(kind)
        ends = self._day.began_at + self._state.schedule[window]
        strangers = [account for account in self._day.members if self._sends(account)]
        self._tell(
            f"day {self._state.epoch}: {window} is open to {len(strangers)} nodes of others until {utc(ends)}"
            if ends > self._clock()
            else f"day {self._state.epoch}: {window} ended at {utc(ends)}"
        )
        while self._clock() < ends:
            check_interrupted()
            time.sleep(_LOOK)
        messages, events = list[SignedMessage](), list[tuple[str, Mapping[str, object]]]()
        for account in strangers:
            try:
                message = self._board.message(self._day, kind, account)
            except StoreUnavailableError:
                raise  # nobody loses a submission because the store is away
            except (StoreError, ValueError) as error:
                dropped = {"phase": window, "reason": f"from {account}: {error}"}
                events.append(("message_dropped", dropped))
                continue
            if message:
                retried(
                    partial(self._board.store.put, message.data), StoreUnavailableError
                )  # where a verifier looks for it
                messages.append(message)
        self._tell(f"day {self._state.epoch}: {len(messages)} of {len(strangers)} nodes of others handed in in time")
        yield NOBODY, PhaseResult(tuple(messages), events=tuple(events))

    def phase_over(self, kind: ContestKind, coordinator: AnyCoordinator) -> None:
        """Tell what became of submissions in the phase that collected messages of this kind."""
        phase = phase_of(kind)
        if kind is ContestKind.ACKNOWLEDGEMENT:
            self._board.post_lists(self._day, coordinator.look(lists_of))
        self._board.post_statuses(self._day, phase, coordinator.look(statuses_after, phase))

    def _sends(self, account: str) -> bool:
        return account not in self._own and not self._state.members[self._day.members[account]].slots


def phase_of(kind: ContestKind) -> str:
    """The phase of the day's schedule that collects messages of a kind."""
    rung, _, what = str(kind).rpartition("_")
    late = {"commitment": Window.SCORE, "ballot": Window.OPEN, "rescore": Window.AUDIT}
    return _PHASES[kind] if kind in _PHASES else f"{rung}_{late[what]}"


def lists_of(state: ContestState, bulletin: Bulletin) -> list[SignedMessage]:
    """The committee's lists of commitments among the messages of a day."""
    return [one for one in bulletin if ContestMessage.parse(one.data).kind is ContestKind.ACKNOWLEDGEMENT]


def statuses_after(state: ContestState, bulletin: Bulletin, phase: str) -> dict[int, Status]:
    """{node: state of its submission} at the end of a phase, from the messages of the day so far."""
    messages: Any = [ContestMessage.parse(one.data) for one in bulletin]
    return statuses(state, messages, state.schedule[phase])
