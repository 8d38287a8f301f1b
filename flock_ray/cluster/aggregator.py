"""Accepted updates to the candidate, by the task's rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flock_ray.aggregation.aggregate import Aggregation
from flock_ray.aggregation.rule import Rule
from flock_ray.aggregation.start import Start
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.update_store import UpdateStore, checked
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.ballot import Check


class _GoneError(Exception):
    """An update that was there before cannot be had again."""


class Aggregator:
    """Combines updates; what an epoch's candidate came to is remembered, and a sum that began while updates came."""

    def __init__(self, updates: UpdateStore, rule: Callable[[], Rule], progress: Progress) -> None:
        """Nothing combined yet.

        Args:
            updates: where they come from.
            rule: makes the task's rule, for one aggregation.
            progress: counts the time.
        """
        self._updates, self._rule, self._progress = updates, rule, progress
        self._start: tuple[bytes, Start] | None = None
        self._running: tuple[bytes, tuple[bytes, ...], Aggregation] | None = None
        self._combined: dict[tuple[bytes, tuple[bytes, ...]], tuple[bytes | None, tuple[int, ...]]] = {}

    def check_and_add(self, start: bytes, payloads: Sequence[bytes]) -> dict[bytes, Check]:
        """Fetch and check payloads by ascending member; the rule gets the updates as they come, and none is kept.

        Args:
            start: hash of the global adapter.
            payloads: their hashes.

        Returns:
            {payload hash: what its check gave}.
        """
        aggregation, checks = Aggregation(self._start_of(start), self._rule()), dict[bytes, Check]()
        for payload, update in self._updates.updates(payloads, keep=False):
            checks[payload] = checked(update)
            if not isinstance(update, Check):
                with self._progress.timed("aggregate"):
                    aggregation.add(update)
        valid = tuple(payload for payload, check in checks.items() if check is Check.VALID)
        self._running = start, valid, aggregation
        return checks

    def combine(self, start: bytes, payloads: Sequence[bytes]) -> tuple[bytes | None, tuple[int, ...]]:
        """Remember the candidate of accepted updates.

        Args:
            start: hash of the global adapter.
            payloads: of the accepted proposals, by ascending member.

        Returns:
            Its hash and their weights; None where one of them cannot be had or all weights are 0.
        """
        key = start, tuple(payloads)
        if key not in self._combined:
            if self._running is None or self._running[:2] != key:
                self.check_and_add(start, payloads)
            assert self._running is not None
            _, added, aggregation = self._running
            self._running = None
            if added != key[1]:
                return None, ()
            try:
                with self._progress.timed("aggregate"):
                    made = aggregation.finish(self._once_more(payloads))
            except _GoneError:
                return None, ()
            self._combined[key] = (self._updates.remember(made.adapter), made.weights) if made.adapter else (None, ())
        return self._combined[key]

    def with_one(self, start: bytes, payload: bytes) -> Adapter:
        """Global adapter + the update of one payload that decoded."""
        [(_, update)] = self._updates.updates([payload], keep=True)
        assert not isinstance(update, Check)
        with self._progress.timed("aggregate"):
            return self._start_of(start).with_one(update)

    def _start_of(self, digest: bytes) -> Start:
        if self._start is None or self._start[0] != digest:
            self._start = digest, Start(self._updates.adapter(digest))
        return self._start[1]

    def _once_more(self, payloads: Sequence[bytes]) -> Iterator[Adapter]:
        """The updates of payloads that were valid before."""
        for _, update in self._updates.updates(payloads, keep=False):
            if isinstance(update, Check):
                raise _GoneError
            yield update

    def end_epoch(self) -> None:
        """Forget what the epoch combined."""
        self._running = None
        self._combined.clear()
