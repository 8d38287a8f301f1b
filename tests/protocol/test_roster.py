from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.roster import MAX_CHANGED_SLOTS, Change, Roster, change_slots, due_epoch, founders

COUNTS = st.lists(st.integers(1, 4), min_size=1, max_size=8)


@st.composite
def changes(draw: st.DrawFn, counts: list[int], largest: int = 4) -> list[Change]:
    """Joins and leaves in an order that a contract would take: nobody leaves twice or before it came."""
    slots, here, asked, epoch = list(counts), set(range(len(counts))), [], 1
    for _ in range(draw(st.integers(0, 12))):
        epoch += draw(st.integers(0, 2))
        if here and draw(st.booleans()):
            member = draw(st.sampled_from(sorted(here)))
            here.remove(member)
            asked.append(Change(member, slots[member], epoch, leaves=True))
        else:
            here.add(len(slots))
            slots.append(draw(st.integers(1, largest)))
            asked.append(Change(len(slots) - 1, slots[-1], epoch, leaves=False))
    return asked


def test_a_leavers_slots_are_filled_from_the_end() -> None:
    """The same lists as in the forge test of a leaver with several slots."""
    slots = founders([3, 2, 3, 1, 2])
    assert Roster(slots).owners == (0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 4)
    slots = change_slots(slots, Change(1, 2, 3, leaves=True))
    assert Roster(slots).owners == (0, 0, 0, 4, 4, 2, 2, 2, 3)
    slots = change_slots(slots, Change(4, 2, 3, leaves=True))
    assert Roster(slots).owners == (0, 0, 0, 2, 3, 2, 2)
    slots = change_slots(slots, Change(0, 3, 6, leaves=True))
    assert Roster(slots).owners == (3, 2, 2, 2)


@given(COUNTS, st.data())
def test_every_member_that_is_in_has_its_slots_and_nobody_else_any(counts: list[int], data: st.DataObject) -> None:
    asked = data.draw(changes(counts))
    slots = founders(counts)
    expected = {(member, number) for member, count in enumerate(counts) for number in range(count)}
    for change in asked:
        mine = {(change.member, number) for number in range(change.slots)}
        expected = expected - mine if change.leaves else expected | mine
        before, slots = slots, change_slots(slots, change)
        assert len(slots) == len(expected)
        assert set(slots) == expected
        moved = sum(slot != other for slot, other in zip(before, slots, strict=False))
        assert moved <= change.slots, "no more slots change hands than the leaver had"


@given(COUNTS, st.data(), st.integers(0, 40))
def test_no_change_counts_before_its_epoch_and_all_in_the_end(
    counts: list[int], data: st.DataObject, epoch: int
) -> None:
    asked = tuple(data.draw(changes(counts)))
    roster = Roster(founders(counts), asked).at(0, epoch)
    due = [change for change in asked if change.epoch <= epoch]
    assert roster.waiting == asked[len(due) :]
    slots = founders(counts)
    for change in due:
        slots = change_slots(slots, change)
    assert roster.slots == slots
    assert roster.at(epoch, epoch) == roster
    assert roster.at(epoch, epoch + 3) == Roster(founders(counts), asked).at(0, epoch + 3)


@given(COUNTS, st.data())
def test_one_settlement_changes_so_many_slots_at_most(counts: list[int], data: st.DataObject) -> None:
    waiting = tuple(data.draw(changes(counts, MAX_CHANGED_SLOTS)))
    roster, epoch = Roster(founders(counts), waiting), 0
    while roster.waiting:
        epoch += 1
        following = roster.settled(epoch)
        applied = roster.waiting[: len(roster.waiting) - len(following.waiting)]
        assert sum(change.slots for change in applied) <= MAX_CHANGED_SLOTS
        if following.waiting:
            held_up = following.waiting[0]
            assert held_up.epoch > epoch or sum(c.slots for c in (*applied, held_up)) > MAX_CHANGED_SLOTS
        roster = following
    assert epoch <= 26 + len(waiting)


@pytest.mark.parametrize(("last_settled", "max_unsettled", "due"), [(0, 0, 3), (0, 2, 5), (7, 1, 11)])
def test_a_change_is_due_after_every_seed_that_may_be_known(last_settled: int, max_unsettled: int, due: int) -> None:
    """Up to epoch last_settled + 1 + max_unsettled may be over, and the seed of the next one known."""
    assert due_epoch(last_settled, max_unsettled) == due
