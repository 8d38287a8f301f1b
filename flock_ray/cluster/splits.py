"""What updates add to what is public, and what of them enters the candidate, each computed once an epoch."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.cluster.progress import Progress
from flock_ray.cluster.update_store import UpdateStore
from flock_ray.lora.known_moves import KnownMoves, Split
from flock_ray.protocol.ballot import Check


class Splits:
    """Splits updates by the moves of the global adapter before them."""

    def __init__(self, updates: UpdateStore, progress: Progress) -> None:
        """Nothing split yet.

        Args:
            updates: where adapters and updates come from.
            progress: counts the time.
        """
        self._updates, self._progress = updates, progress
        self._known: tuple[tuple[bytes, ...], KnownMoves] | None = None
        self._splits: dict[bytes, Split] = {}

    def of(self, adapters: Sequence[bytes], payloads: Sequence[bytes]) -> dict[bytes, Split]:
        """{payload hash: its update in two} of those that are valid; updates are kept.

        Args:
            adapters: hashes of the global adapters that the mechanism looks back on, the current one last.
            payloads: hashes.
        """
        if self._known is None or self._known[0] != tuple(adapters):
            self._known = tuple(adapters), KnownMoves([self._updates.adapter(digest) for digest in adapters])
            self._splits.clear()
        found = dict(self._updates.updates(payloads, keep=True))
        valid = {payload: update for payload, update in found.items() if not isinstance(update, Check)}
        missing = {payload: update for payload, update in valid.items() if payload not in self._splits}
        with self._progress.timed("aggregate"):
            self._splits |= zip(missing, self._known[1].split(list(missing.values())), strict=True)
        return {payload: self._splits[payload] for payload in valid}

    def end_epoch(self) -> None:
        """Forget everything."""
        self._known = None
        self._splits.clear()
