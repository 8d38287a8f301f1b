"""Who is next, what a step computes, and which slots are used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.serving.fair_queue import FairQueue
from flock_ray.serving.prefixes import Place, Prefixes
from flock_ray.serving.residency import Residency
from flock_ray.serving.schedule import shares


def served(queue: FairQueue[str], number: int, tokens: float = 10) -> list[str]:
    found = []
    for _ in range(number):
        found.append(item := queue.pop())
        queue.charge(item[0], tokens)
    return found


def test_a_tenant_with_many_requests_does_not_keep_out_one_with_few() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(6):
        queue.push("a", f"a{number}")
    queue.push("b", "b0")
    queue.push("b", "b1")
    assert served(queue, 5) == ["a0", "b0", "a1", "b1", "a2"]
    assert len(queue) == 3


def test_who_used_more_tokens_waits_longer_and_nobody_saves_up() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", "a0")
    assert served(queue, 1, 1_000) == ["a0"]
    queue.push("b", "b0")  # begins at what the only other one has, though it was never served
    queue.push("a", "a1")
    queue.push("b", "b1")
    assert served(queue, 3) == ["b0", "a1", "b1"]
    for tenant in "aabb":
        queue.leave(tenant)
    queue.push("c", "c0")
    queue.push("a", "a2")
    assert served(queue, 2) == ["c0", "a2"], "what was served before everybody left counts no more"


def test_what_nobody_wants_leaves_the_queue() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a0", "b0", "a1"):
        queue.push(item[0], item)
    assert queue.take_out(lambda item: item.startswith("a")) == ["a0", "a1"]
    assert len(queue) == 1 and queue.pop() == "b0" and not queue


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(1, 300), st.integers(1, 32))
def test_every_step_moves_all_that_decode_and_some_of_a_prompt(remaining: list[int], budget: int, least: int) -> None:
    found = shares(remaining, budget, least)
    assert all(share == 1 for share, one in zip(found, remaining, strict=True) if one == 1)
    assert all(0 <= share <= one for share, one in zip(found, remaining, strict=True))
    prompts = sum(share for share, one in zip(found, remaining, strict=True) if one > 1)
    waiting = sum(one for one in remaining if one > 1)
    assert prompts == min(waiting, max(budget - remaining.count(1), least))


def test_a_row_starts_after_what_its_owner_has_in_the_cache() -> None:
    slots = Prefixes(2)
    mine, other = ("a", b"x"), ("b", b"x")
    first = slots.take(mine, [1, 2, 3, 4])
    assert first == Place(0, 0, None, 0)
    slots.extend(0, [1, 2, 3, 4, 9])
    assert slots.take(mine, [1, 2, 3, 7]) == Place(1, 3, 0, 3), "copied from a slot in use"
    assert slots.free == 0
    slots.release(0)
    assert slots.take(mine, [1, 2, 3, 4]) == Place(0, 3, None, 5), "the last token is computed in any case"
    slots.release(0)
    slots.release(1)
    assert slots.take(other, [1, 2, 3, 4]) == Place(0, 0, None, 3), "never another tenant's, nor another adapter's"
    assert slots.take(("a", b"y"), [1, 2, 3, 4]) == Place(1, 0, None, 3)


def test_a_slot_that_failed_is_not_relied_on_but_cleared() -> None:
    slots = Prefixes(1)
    slots.take(("a", b""), [1, 2])
    slots.extend(0, [1, 2])
    slots.release(0)
    slots.forget(0)
    assert slots.take(("a", b""), [1, 2, 3]) == Place(0, 0, None, 2)


def test_prompts_that_are_scored_are_computed_whole() -> None:
    slots = Prefixes(1)
    slots.take(("a", b""), [1, 2])
    slots.extend(0, [1, 2])
    slots.release(0)
    assert slots.take(("a", b""), [1, 2, 3], reuse=False).kept == 0


def test_the_adapter_that_was_used_longest_ago_makes_room_and_never_one_in_use() -> None:
    slots = Residency(2)
    assert slots.take(b"") == (0, False)
    assert slots.take(b"a") == (1, True)
    assert slots.take(b"b") == (2, True)
    slots.release(2)
    assert slots.take(b"c") == (2, True), "a is in use"
    assert slots.take(b"a") == (1, False)
    with pytest.raises(AssertionError, match="fewer slots than rows"):
        slots.take(b"d")
    slots.release(1)
    slots.release(1)
    slots.release(2)
    assert slots.take(b"b") == (2, True), "c was used longer ago than a"
    slots.forget(2)
    slots.release(2)
    assert slots.take(b"b") == (2, True), "it was not loaded"
