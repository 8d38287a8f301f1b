"""Accepted updates to the candidates, by the task's rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flock_ray.aggregation.aggregate import Aggregation
from flock_ray.aggregation.rule import Rule
from flock_ray.aggregation.start import Start
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.splits import Splits
from flock_ray.cluster.update_store import UpdateStore, checked
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.ballot import Check
from flock_ray.protocol.mechanism import Mechanism


class _GoneError(Exception):
    """An update that was there before cannot be had again."""


_Key = tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[int, ...], bool]
"""Global adapters, payloads, steps, and whether updates are split."""


class Aggregator:
    """Combines updates; an epoch's candidates are remembered, and a sum that began while updates came.

    Global adapters are given as the hashes of those that the mechanism looks back on, the current one last.
    """

    def __init__(self, updates: UpdateStore, splits: Splits, rule: Callable[[], Rule], progress: Progress) -> None:
        """Nothing combined yet.

        Args:
            updates: where they come from.
            splits: says what of an update enters a candidate, where the mechanism splits them.
            rule: makes the task's rule, for one aggregation.
            progress: counts the time.
        """
        self._updates, self._splits, self._rule, self._progress = updates, splits, rule, progress
        self._start: tuple[bytes, Start] | None = None
        self._running: tuple[_Key, Aggregation] | None = None
        self._combined: dict[_Key, tuple[tuple[bytes, ...], tuple[int, ...]]] = {}

    def check_and_add(
        self, adapters: Sequence[bytes], payloads: Sequence[bytes], mechanism: Mechanism
    ) -> dict[bytes, Check]:
        """Fetch and check payloads by ascending member; the rule gets the updates, or what of them enters, at once.

        Args:
            adapters: global adapters.
            payloads: their hashes.
            mechanism: of the task; only where it splits updates they are kept.

        Returns:
            {payload hash: what its check gave}.
        """
        aggregation, checks = Aggregation(self._start_of(adapters[-1]), self._rule()), dict[bytes, Check]()
        for payload, update in self._updates.updates(payloads, keep=mechanism.splits_updates):
            checks[payload] = checked(update)
            if not isinstance(update, Check):
                enters = self._entering(adapters, payload, update, mechanism)
                with self._progress.timed("aggregate"):
                    aggregation.add(enters)
        valid = tuple(payload for payload, check in checks.items() if check is Check.VALID)
        self._running = (tuple(adapters), valid, mechanism.steps, mechanism.splits_updates), aggregation
        return checks

    def _entering(self, adapters: Sequence[bytes], payload: bytes, update: Adapter, mechanism: Mechanism) -> Adapter:
        """What of an update enters a candidate."""
        return self._splits.of(adapters, [payload])[payload].entering if mechanism.splits_updates else update

    def combine(
        self, adapters: Sequence[bytes], payloads: Sequence[bytes], mechanism: Mechanism
    ) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
        """Remember the candidates of accepted updates, one for each of the mechanism's steps.

        Args:
            adapters: global adapters.
            payloads: of the accepted proposals, by ascending member.
            mechanism: of the task.

        Returns:
            Their hashes and the updates' weights; nothing where an update cannot be had or all weights are 0.
        """
        key = tuple(adapters), tuple(payloads), mechanism.steps, mechanism.splits_updates
        if key not in self._combined:
            if self._running is None or self._running[0] != key:
                self.check_and_add(adapters, payloads, mechanism)
            assert self._running is not None
            added, aggregation = self._running
            self._running = None
            if added != key:
                return (), ()
            try:
                with self._progress.timed("aggregate"):
                    made = aggregation.finish(self._once_more(adapters, payloads, mechanism), mechanism.steps)
            except _GoneError:
                return (), ()
            hashes = tuple(self._updates.remember(adapter) for adapter in made.adapters)
            self._combined[key] = hashes, made.weights if hashes else ()
        return self._combined[key]

    def with_one(self, start: bytes, payload: bytes) -> Adapter:
        """Global adapter + the update of one payload that decoded."""
        [(_, update)] = self._updates.updates([payload], keep=True)
        assert not isinstance(update, Check)
        with self._progress.timed("aggregate"):
            return self._start_of(start).with_one(update)

    def with_parts(self, adapters: Sequence[bytes], payload: bytes, num_parts: int) -> tuple[Adapter, Adapter]:
        """Global adapter + a part of what one update that decoded adds to what is public, and of what of it enters."""
        split, start = self._splits.of(adapters, [payload])[payload], self._start_of(adapters[-1])
        with self._progress.timed("aggregate"):
            return start.with_part(split.residual, num_parts), start.with_part(split.entering, num_parts)

    def _start_of(self, digest: bytes) -> Start:
        if self._start is None or self._start[0] != digest:
            self._start = digest, Start(self._updates.adapter(digest))
        return self._start[1]

    def _once_more(
        self, adapters: Sequence[bytes], payloads: Sequence[bytes], mechanism: Mechanism
    ) -> Iterator[Adapter]:
        """What enters of payloads that were valid before."""
        for payload, update in self._updates.updates(payloads, keep=False):
            if isinstance(update, Check):
                raise _GoneError
            yield self._entering(adapters, payload, update, mechanism)

    def end_epoch(self) -> None:
        """Forget what the epoch combined."""
        self._running = None
        self._combined.clear()
