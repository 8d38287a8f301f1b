"""What a contest's ballots hold: the losses of adapters on the rows of a rung, under the contest's metric.

Validators fill in their ballots with it, and whoever scores a contest again measures with it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from transformers import PreTrainedTokenizerBase

from flock_ray.lora.serialization import Adapter
from flock_ray.training.contest import RowScorer
from flock_ray.training.contest_data import ScoredRow
from flock_ray.training.contest_sql import SqlScorer
from flock_ray.training.engine import Tick, no_tick

Group = tuple[tuple[int, ...], dict[bytes, Adapter]]
"""Places of rows, ascending, and the adapters that are measured on them together."""


class ContestLosses:
    """Measures each adapter on each row once, and keeps the losses until a day ends."""

    def __init__(
        self, scorer: RowScorer, tokenizer: PreTrainedTokenizerBase, metric: str, answer_tokens: int, template_date: str
    ) -> None:
        """Measure with a scorer.

        Args:
            scorer: over the resident base model.
            tokenizer: of the base model.
            metric: `text` or `sql`.
            answer_tokens: longest generated answer (`sql`).
            template_date: that a chat template is told (`sql`), YYYY-MM-DD.
        """
        self._scorer = scorer
        today = date.fromisoformat(template_date)
        self._sql = SqlScorer(scorer, tokenizer, answer_tokens, today) if metric == "sql" else None
        self._losses: dict[tuple[bool, bytes, int], int] = {}

    def missing(self, final: bool, adapters: Mapping[bytes, Adapter], places: Sequence[int]) -> list[Group]:
        """What of a rung was not measured yet, adapters that lack the same rows together.

        Args:
            final: whether the rows are those of set B.
            adapters: {payload: adapter} of its contenders, in their order.
            places: of its rows.
        """
        groups: dict[tuple[int, ...], dict[bytes, Adapter]] = {}
        for payload, adapter in adapters.items():
            lacking = tuple(place for place in sorted(places) if (final, payload, place) not in self._losses)
            if lacking:
                groups.setdefault(lacking, {})[payload] = adapter
        return sorted(groups.items(), key=lambda group: group[0])

    def measure(
        self, shuffle: bytes, final: bool, groups: Sequence[Group], chunk: Sequence[ScoredRow], tick: Tick = no_tick
    ) -> None:
        """Measure groups that `missing` named.

        Args:
            shuffle: of the day, 32 bytes.
            final: whether the rows are those of set B.
            groups: to be measured.
            chunk: all rows of the day, or of set B.
            tick: called once per adapter of a group.
        """
        for places, adapters in groups:
            measured = self.of(shuffle, adapters, [chunk[place] for place in places], chunk, tick)
            for payload, losses in measured.items():
                self._losses |= {(final, payload, place): loss for place, loss in zip(places, losses, strict=True)}

    def column(self, final: bool, payload: bytes, places: Sequence[int]) -> tuple[int, ...]:
        """A contender's losses on rows that were measured, micro-nats."""
        return tuple(self._losses[final, payload, place] for place in places)

    def of(
        self,
        shuffle: bytes,
        adapters: Mapping[bytes, Adapter],
        rows: Sequence[ScoredRow],
        chunk: Sequence[ScoredRow],
        tick: Tick = no_tick,
    ) -> dict[bytes, tuple[int, ...]]:
        """{payload: losses on `rows`}, measured now and not kept; arguments as of `measure`."""
        if self._sql:
            asked, known = ([one.question for one in each if one.question] for each in (rows, chunk))
            return self._sql.losses(adapters, asked, known, shuffle, tick)
        return self._scorer.losses(adapters, [one.example for one in rows], tick)

    def forget(self) -> None:
        """Drop all losses: the day is over."""
        self._losses.clear()
