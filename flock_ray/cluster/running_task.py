"""A task as nodes and coordinator go on with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flock_ray.chain.eip712 import Domain
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import MemberState, TaskState


@dataclass(frozen=True)
class RunningTask:
    """A task at the start of an epoch.

    Attributes:
        state: what the epoch starts from.
        domain: chain and contract that signatures are bound to.
        relayer: account that the reports name.
        silos: {member: silo} of the members whose keys and data are in this run.
    """

    state: TaskState
    domain: Domain
    relayer: str
    silos: Mapping[int, int]

    def at(self, state: TaskState) -> RunningTask:
        """The same task at another epoch."""
        return replace(self, state=state)

    def changed(
        self, changes: Sequence[Change], joined: Sequence[MemberState], silos: Mapping[int, int]
    ) -> RunningTask:
        """The task with members that came and went; `silos` are those of the members that joined."""
        return replace(self, state=self.state.changed(changes, joined), silos={**self.silos, **silos})
