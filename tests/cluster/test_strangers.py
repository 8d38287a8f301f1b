"""What strangers hand in to a contest: taken when a window is over, whatever else lies in the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.cluster.contest_board import ContestBoard
from flock_ray.cluster.strangers import NOBODY, Strangers, phase_of
from flock_ray.errors import StoreError
from flock_ray.protocol.contest_entries import Status
from flock_ray.protocol.contest_message import ContestKind
from flock_ray.protocol.message import SignedMessage
from flock_ray.store.batch import Batch
from flock_ray.store.blob_store import BlobStore
from flock_ray.store.failures import StoreUnavailableError
from tests.protocol.contest_players import new_contest

pytestmark = pytest.mark.model  # the workers' modules import PEFT

STATE = new_contest()
NODES = [number for number, member in enumerate(STATE.members) if not member.slots]
KIND = ContestKind.COMMITMENT
OWN, FIRST, SECOND, THIRD = (STATE.members[node].account for node in NODES[:4])
SIGNED = SignedMessage(b"said", bytes(65))


@pytest.fixture
def board(tmp_path: Path) -> ContestBoard:
    return ContestBoard(BlobStore(str(tmp_path)), STATE.scope.task)


def collected(strangers: Strangers) -> tuple[tuple[SignedMessage, ...], list[Any]]:
    [(index, result)] = list(strangers.results(KIND))
    assert index == NOBODY
    return result.messages, [fields for _, fields in result.events]


def test_what_is_there_when_the_window_is_over_is_taken_and_what_does_not_read_is_told(board: ContestBoard) -> None:
    times = iter((1_000.0, 1_000.0, 1_030.0, 1_061.0))
    own = [member.account for member in STATE.members if member.account not in (FIRST, SECOND, THIRD)]
    strangers = Strangers(board, own, lambda line: None, lambda: next(times))
    strangers.epoch_begins(STATE)
    day = board.latest_day(1)
    assert day and (day.day, day.began_at, day.seed) == (1, 1_000, STATE.seed)
    board.post_message(day, KIND, FIRST, SIGNED)
    board.post_message(day, KIND, OWN, SIGNED)  # whose key this run holds: its own word counts
    with Batch() as batch:
        board.store.create_named(f"{board._root}/1/0/{KIND}/{SECOND.lower()}.json", b"{}", batch)
    messages, events = collected(strangers)
    assert messages == (SIGNED,)
    assert [(one["phase"], SECOND.lower() in one["reason"]) for one in events] == [("commit", True)]
    assert next(times, None) is None  # it looked until the minute was over


def test_a_day_is_taken_up_or_played_again_by_its_seed(board: ContestBoard) -> None:
    first = board.post_day(STATE, 5)
    assert board.post_day(STATE, 9) == first
    again = board.post_day(replace(STATE, seed=bytes(32)), 9)
    assert (first.attempt, again.attempt) == (0, 1) and board.latest_day(1) == again == board.last_attempt(1)
    assert board.last_attempt(2) is None


def test_a_second_message_is_refused_and_the_first_stands(board: ContestBoard) -> None:
    day = board.post_day(STATE, 0)
    board.post_message(day, KIND, FIRST, SIGNED)
    board.post_message(day, KIND, FIRST, SIGNED)
    with pytest.raises(StoreError, match="in the store already, and says something else"):
        board.post_message(day, KIND, FIRST, SignedMessage(b"other", bytes(65)))
    assert board.message(day, KIND, FIRST) == SIGNED
    assert board.message(day, KIND, SECOND) is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"data":1,"signature":"0x"}', b'{"data":"0x0","signature":"0x"}'])
def test_a_file_that_is_no_message_is_refused(board: ContestBoard, data: bytes) -> None:
    day = board.post_day(STATE, 0)
    with Batch() as batch:
        board.store.create_named(f"{board._root}/1/0/{KIND}/{FIRST.lower()}.json", data, batch)
    with pytest.raises((StoreError, ValueError)):
        board.message(day, KIND, FIRST)


def test_the_last_phase_that_is_over_is_told(board: ContestBoard) -> None:
    day, phases = board.post_day(STATE, 0), list(STATE.schedule)
    assert board.statuses(day, phases) is None
    for phase in phases[:3]:
        board.post_statuses(day, phase, {4: Status("committed", phase, "", 7)})
    assert board.statuses(day, phases) == (phases[2], {4: Status("committed", phases[2], "", 7)})


def test_every_kind_of_message_is_of_a_phase() -> None:
    last = {phase_of(kind) for kind in ContestKind}
    schedules = [*STATE.schedule, "final_score", "final_open", "final_audit"]
    assert last == set(schedules)


def test_a_store_that_is_away_for_a_moment_costs_nobody_its_submission(
    board: ContestBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, read, away = board.post_day(STATE, 0), board.store.read_named, iter((True,))
    board.post_message(day, KIND, FIRST, SIGNED)

    def flaky(name: str, max_bytes: int) -> bytes:
        if next(away, False):
            raise StoreUnavailableError("the store is away")
        return read(name, max_bytes)

    monkeypatch.setattr(board.store, "read_named", flaky)
    assert board.message(day, KIND, FIRST) == SIGNED
