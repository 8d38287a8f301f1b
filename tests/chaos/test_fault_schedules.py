"""Whatever happens between the relayer and its chain, each epoch is settled once, in order, and no wei is lost."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.schedule import FAULTS, Stage, Violation, draw, hurried, kill_everywhere, play

pytestmark = pytest.mark.anvil

NUM_SCHEDULES = 20


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch, hurried():
        made = Stage(tmp_path_factory.mktemp("stage"), patch.setenv)
        yield made
        made.close()


def test_random_schedules_end_as_if_nothing_had_happened(stage: Stage, tmp_path: Path) -> None:
    fired: Counter[str] = Counter()
    for seed in range(NUM_SCHEDULES):
        faults = draw(seed)
        try:
            fired += play(stage, tmp_path / str(seed), faults).fired
        except Exception as error:
            raise AssertionError(f"schedule {seed}, {faults}: {error}") from error
    assert set(fired) == set(FAULTS)


SENT_AND_CRASHED = [[("stuck", 40), ("crash", 3)], [], []]
"""The first transaction waits in the pool, and the relayer dies before it notes that it was sent."""


def test_the_harness_notices_that_the_journal_is_off(stage: Stage, tmp_path: Path) -> None:
    assert play(stage, tmp_path / "on", SENT_AND_CRASHED).fired == {"stuck": 1, "crash": 1}
    with pytest.raises(Violation, match="4 transactions of the relayer are mined for 3 epochs"):
        play(stage, tmp_path / "off", SENT_AND_CRASHED, journal=False)


def test_killed_between_every_two_steps_of_the_journal(stage: Stage, tmp_path: Path) -> None:
    assert kill_everywhere(stage, tmp_path) == 2 * len(("plan", "sign", "send", "sent", "mined"))


def test_a_stolen_nonce_is_given_up(stage: Stage, tmp_path: Path) -> None:
    assert play(stage, tmp_path, [[("nonce_theft", 0)], [], []]).fired == {"nonce_theft": 1}
    with sqlite3.connect(tmp_path / "chain" / "outbox.sqlite") as journal:
        outcomes = journal.execute("SELECT nonce, outcome FROM attempts ORDER BY number").fetchall()
    assert outcomes == [(0, "lost"), (1, ""), (2, ""), (3, "")]


@pytest.mark.parametrize(("epoch", "step"), [(1, 8), (2, 3)])
def test_a_crash_while_a_settlement_that_was_taken_back_is_sent_again(
    stage: Stage, tmp_path: Path, epoch: int, step: int
) -> None:
    """The journal held the first epoch as sent for good: the next relayer settled the second and never looked back."""
    faults: list[list[tuple[str, int]]] = [[("reorged", 3)], [], []]
    faults[epoch - 1].append(("crash", step))
    assert play(stage, tmp_path, faults).fired == {"reorged": 1, "crash": 1}


def test_a_transaction_that_is_due_again_is_outbid_too(stage: Stage, tmp_path: Path) -> None:
    """Found by schedule 120: a stolen nonce became free again, and what was sent with it first was passed over."""
    first: list[tuple[str, int]] = [("under_priced", 3), ("stale_head", 1), ("nonce_theft", 3)]
    faults = [first, [("reorged", 5)], [("stuck", 1), ("nonce_theft", 4)]]
    fired = play(stage, tmp_path, faults).fired
    assert fired["reorged"] == fired["stuck"] == 1
