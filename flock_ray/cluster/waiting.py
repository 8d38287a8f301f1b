"""Waiting for the answer of one actor: interrupts and a lost Ray head are noticed, lateness is told, a hang ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from flock_ray.cluster.deadlines import AWAY, Deadlines, Liveness
from flock_ray.cluster.interrupts import check_interrupted
from flock_ray.cluster.supervisor import own_error
from flock_ray.errors import HangError

_TICK = 1.0  # seconds between two looks


class WatchedActor:
    """An actor with a method `vitals` in its concurrency group `health`."""

    def __init__(
        self,
        actor: Any,
        name: str,
        deadlines: Deadlines,
        start_timeout: float,
        tell: Callable[[str], None],
        may_idle: bool = False,
    ) -> None:
        """Watch `actor`.

        Args:
            actor: to be called.
            name: for people.
            deadlines: what its calls may take.
            start_timeout: seconds that its process may take to start.
            tell: takes a line for people.
            may_idle: see `Liveness`.
        """
        self.actor, self._name = actor, name
        self._deadlines, self._start_timeout, self._tell, self._may_idle = deadlines, start_timeout, tell, may_idle
        self._started = False

    def call(self, method: str, *args: Any) -> Any:
        """Ask the actor and wait for its answer.

        Raises:
            Exception: what the method raised.
            RayActorError: the actor died.
            HangError: it neither works nor answers.
        """
        return self.wait(getattr(self.actor, method).remote(*args), method)

    def wait(self, ref: Any, method: str) -> Any:
        """Wait for the answer to a call; see `call`."""
        began = time.monotonic()
        liveness, health, late = Liveness(began, self._may_idle), None, False
        budget = self._deadlines.budget(f"{self._name}.{method}", 0)
        looked = began
        while not ray.wait([ref], timeout=_TICK)[0]:
            check_interrupted()
            now = time.monotonic()
            if now - looked > AWAY:
                liveness.not_looked_at(now - looked)
            looked = now
            if health is None:
                health = self.actor.vitals.options(concurrency_group="health").remote()
            elif ray.wait([health], timeout=0)[0]:
                try:
                    liveness.answered(now, ray.get(health))
                    self._started = True
                except RayError:
                    pass  # the call fails with it
                health = None
            if not self._started:
                if now - began > self._start_timeout:
                    raise HangError(f"the {self._name} did not start within {self._start_timeout:g} s")
                continue
            if not late and now - began > budget:
                late = True
                self._tell(
                    f"the {self._name} is late: {method} takes {now - began:.0f} s, expected within {budget:.0f} s"
                )
            if why := liveness.hang(now, budget):
                raise HangError(f"the {self._name} hangs in {method}: {why}")
        check_interrupted()
        try:
            answer = ray.get(ref)
        except RayError as error:
            raise own_error(error) from None
        self._started = True
        self._deadlines.note(f"{self._name}.{method}", time.monotonic() - began, 0)
        return answer
