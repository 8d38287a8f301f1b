"""The committee that members draw is the committee that the contract draws."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.protocol.roles import draw_seats
from tests.chain.world import World

words = st.binary(min_size=32, max_size=32)


@settings(max_examples=60)
@given(seed=words, task=words, epoch=st.integers(1, 2**64 - 1), data=st.data())
def test_seats_are_drawn_alike(shared_world: World, seed: bytes, task: bytes, epoch: int, data: st.DataObject) -> None:
    num_slots = data.draw(st.integers(1, 40) | st.integers(1, 2**32 - 1))
    num_seats = data.draw(st.integers(0, min(num_slots, 30)))
    asked = (seed, task, epoch, num_slots, num_seats)
    drawn = shared_world.client._read("EpochSettlement", shared_world.domain.contract, "drawSeats", *asked)[0]
    assert drawn == draw_seats(*asked)


def test_the_committee_is_the_owners_of_the_drawn_slots(shared_world: World) -> None:
    committee = shared_world.client._read(
        "EpochSettlement", shared_world.domain.contract, "committee", shared_world.task
    )[0]
    assert list(committee) == [voter.address.lower() for voter in shared_world.voters()]
