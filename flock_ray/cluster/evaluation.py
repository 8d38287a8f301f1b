"""Which members measure a global adapter on their held-out parts."""

from __future__ import annotations

from flock_ray.protocol.hashing import tagged
from flock_ray.protocol.state import TaskState


def evaluating(state: TaskState, others: int | None) -> list[int]:
    """Members that measure the global adapter that the epoch of `state` starts from, ascending.

    Args:
        state: at the start of an epoch, or after the last one.
        others: how many beside those with a role in it, chosen by its seed; None for everybody.
    """
    inside = sorted(set(state.slot_owners))
    if others is None:
        return inside
    drawn: set[int] = set()
    if len(inside) > state.terms.num_voters:
        drawn = {*state.roles.voters, *state.roles.proposers}
    rest = [member for member in inside if member not in drawn] if others else []
    rest.sort(key=lambda member: tagged("flock_ray/evaluate/1", state.seed, member))
    return sorted(drawn | set(rest[:others]))
