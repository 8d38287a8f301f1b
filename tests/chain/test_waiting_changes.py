"""Many members ask to join in one epoch: the settlements before their changes count look at all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from flock_ray.chain import transactions
from flock_ray.protocol.hashing import keccak
from tests.chain.test_membership import settle
from tests.chain.world import TOKEN, World, spec

pytestmark = pytest.mark.anvil

FIRST, LATE, STAKE = 6, 80, 10 * TOKEN


def test_settlements_have_gas_for_all_the_changes_that_wait(tmp_path: Path) -> None:
    world = World(spec("anvil", num_members=FIRST + LATE), tmp_path, FIRST + LATE)
    world.deploy()
    grants = [(member.address, 10 * STAKE) for member in world.members]
    world.do(world.creator, lambda s, c: transactions.transfer(s, c, grants))
    task = world.create(
        [1] * FIRST, terms_hash=keccak(b"waiting"), min_stake=STAKE, max_slots=1, num_voters=4, min_members=1,
        max_members=FIRST + LATE, num_epochs=9, max_unsettled=1, pool=0,
    )  # fmt: skip
    for member in world.members[FIRST:]:
        world.join(member, STAKE, 1, task)
    view = world.client.task_view(task)
    assert {change.epoch for change in view.changes} == {4} and len(view.changes) == LATE
    assert [view.roster.work(epoch) for epoch in (2, 3, 4)] == [(0, 0), (0, LATE), (LATE, LATE)]
    for _ in range(5):  # that of epoch 3 looks at them, that of epoch 4 applies them
        settle(world, task)
    assert world.client.task_view(task).num_slots == FIRST + LATE
    world.client.close()
