"""Who is next: of the tenants that wait, the one that got least so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue of each tenant, and a count of the tokens that it was served (VTC: Sheng et al. 2024, arXiv:2401.00588).

    A tenant that comes back after a while starts at the least count of those that are there: nobody saves up.
    """

    def __init__(self) -> None:
        """Empty."""
        self._queues: dict[str, deque[T]] = {}
        self._served: dict[str, float] = {}
        self._present: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def push(self, tenant: str, item: T) -> None:
        """Someone waits; `leave` ends what begins here."""
        if not self._present.get(tenant):
            floor = min((self._served[one] for one in self._present), default=0.0)
            self._served[tenant] = max(self._served.get(tenant, 0.0), floor)
        self._present[tenant] = self._present.get(tenant, 0) + 1
        self._queues.setdefault(tenant, deque()).append(item)

    def pop(self) -> T:
        """The oldest item of the tenant that was served least, the earlier one if two were."""
        tenant = min(self._queues, key=lambda one: self._served[one])
        item = self._queues[tenant].popleft()
        if not self._queues[tenant]:
            del self._queues[tenant]
        return item

    def charge(self, tenant: str, tokens: float) -> None:
        """A present tenant was served so many tokens."""
        self._served[tenant] += tokens

    def leave(self, tenant: str) -> None:
        """One of its requests ended."""
        self._present[tenant] -= 1
        if not self._present[tenant]:
            del self._present[tenant]
            floor = min((self._served[one] for one in self._present), default=math.inf)
            # Who would start at the floor anyway needs no count.
            self._served = {k: v for k, v in self._served.items() if k in self._present or v > floor}

    def take_out(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Remove waiting items."""
        found = [item for queue in self._queues.values() for item in queue if unwanted(item)]
        if found:
            left = {name: deque(one for one in queue if not unwanted(one)) for name, queue in self._queues.items()}
            self._queues = {name: queue for name, queue in left.items() if queue}
        return found
