"""The figures of a run, handed to trackers as the epoch loop tells them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean

from flock_ray.cluster.attestation import Settlement
from flock_ray.cluster.observer import Observer
from flock_ray.protocol.record import Record
from flock_ray.telemetry.tracking.registry import get_tracker
from flock_ray.telemetry.tracking.tracker import TrackedRun, Tracker

EPOCH, LOCAL_STEP = "epoch", "local_step"
MAX_MEMBERS = 64
"""Members whose own figures are handed on, those of the lowest numbers: what a thousand cost would slow the driver."""

_TOKEN = 10**18


class Tracking(Observer):
    """Hands figures to trackers. One that fails is told in a line, and asked no more: the run goes on."""

    def __init__(
        self, names: Sequence[str], run: TrackedRun, name_of: Callable[[int], str], local_steps: int,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Open the trackers.

        Args:
            names: of the trackers.
            run: that they track.
            name_of: what a member is called.
            local_steps: of an epoch.
            tell: takes a line for people.
        """
        self._name_of, self._local_steps, self._tell = name_of, local_steps, tell
        self._trackers: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            self._try(name, partial(self._open, name, run))

    def evaluated(self, epoch: int, losses: dict[int, float], seconds: float) -> None:
        """The losses of the adapter that the run starts from, or goes on with."""
        self._log(EPOCH, epoch, self._of_losses(losses))

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """The steps of a proposer's local training."""
        losses, epoch = fields.get("losses"), fields.get("epoch")
        member = fields.get("member")
        if kind == "trained" and isinstance(losses, list | tuple) and isinstance(epoch, int) and _shown(member):
            name = self._name(int(str(member)))
            for step, loss in enumerate(losses, start=(epoch - 1) * self._local_steps + 1):
                self._log(LOCAL_STEP, step, {f"training_loss/{name}": loss})

    def epoch_ends(self, record: Record, losses: dict[int, float], wall_seconds: Mapping[str, float]) -> None:
        """What an epoch came to."""
        candidate = record.candidate.consensus
        values = {"accepted": float(record.accepted), **self._of_losses(losses)}
        if candidate:
            values["score/candidate"] = candidate.score / 1e6
        for proposal in record.proposals:
            if proposal.consensus and _shown(proposal.member):
                values[f"score/{self._name(proposal.member)}"] = proposal.consensus.score / 1e6
        rewards = {member: wei for member, wei in record.rewards.items() if _shown(member)}
        values |= {f"reward/{self._name(member)}": wei / _TOKEN for member, wei in rewards.items()}
        for slash in record.slashes:
            if _shown(slash.member):
                name = f"slash/{self._name(slash.member)}"
                values[name] = values.get(name, 0.0) + slash.amount / _TOKEN
        values |= {
            f"fee/{self._name(member)}": wei / _TOKEN for member, wei, _ in record.fees if wei and _shown(member)
        }
        values |= {f"seconds/{phase}": seconds for phase, seconds in wall_seconds.items()}
        self._log(EPOCH, record.epoch, values)

    def settled(self, settlement: Settlement) -> None:
        """The gas of an epoch's settlement."""
        if settlement.gas_used is not None:
            self._log(EPOCH, settlement.epoch, {"gas": float(settlement.gas_used)})

    def close(self) -> None:
        """End all trackers."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.close)
        self._trackers.clear()

    def _of_losses(self, losses: Mapping[int, float]) -> dict[str, float]:
        values = {f"loss/{self._name(member)}": loss for member, loss in losses.items() if _shown(member)}
        return values | ({"loss/mean": fmean(losses.values())} if losses else {})

    def _name(self, member: int) -> str:
        """A name that every tracker takes."""
        return re.sub(r"[^\w .-]", "_", self._name_of(member)) or str(member)

    def _log(self, axis: str, step: int, values: Mapping[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.log, axis, step, finite))

    def _open(self, name: str, run: TrackedRun) -> None:
        self._trackers[name] = get_tracker(name)(run)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a service's own errors, of a network say
            self._trackers.pop(name, None)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            self._tell(f"tracker {name} failed and is left out from here on: {reason}")


def _shown(member: object) -> bool:
    return isinstance(member, int) and member < MAX_MEMBERS
