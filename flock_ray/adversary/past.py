"""What members sent in earlier epochs, which everybody can fetch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flock_ray.adversary.behaviour import Context
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.hashing import tagged


def updates_of(
    context: Context, wanted: Callable[[int], bool], before: int, newest: bool = True
) -> Iterator[tuple[int, Adapter]]:
    """(member, update) of the valid proposals of members that are `wanted`, of the epochs before `before`.

    Args:
        context: of whoever looks.
        wanted: says whose.
        before: number of an epoch.
        newest: whether the newest epoch comes first, or the oldest; within one by ascending member.
    """
    past = [one for one in context.known.past if one.epoch < before]
    for epoch in reversed(past) if newest else past:
        for member, payload in sorted(epoch.payloads.items()):
            if wanted(member) and (update := context.known.sent(payload)) is not None:
                yield member, update


def chosen_victim(context: Context, members: list[int]) -> int:
    """One of members, the same in all epochs; nobody outside of the coalition can tell which."""
    return min(members, key=lambda member: tagged("flock_ray/victim/1", context.secret, member))
