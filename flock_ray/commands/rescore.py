"""`flock-ray verify --rescore`: the losses that a contest's validators signed, measured once more.

The replay proves that everything follows from the ballots. Whether the ballots tell the truth is measured here: the
run's rows are public, its store has the payloads, and the losses come from the code that its validators measure with.
"""

from __future__ import annotations

import random
import secrets
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from flock_ray.cluster.contest_rows import read_rows_of
from flock_ray.cluster.run_directory import load_arena_config
from flock_ray.commands.trained import load_agreed_base
from flock_ray.config import ArenaConfig
from flock_ray.errors import ConfigError, VerificationError
from flock_ray.lora.foreign import with_rank
from flock_ray.lora.gate import inspect
from flock_ray.lora.peft_io import adapter_shapes
from flock_ray.lora.serialization import Adapter, layout
from flock_ray.protocol.contest_message import Finding
from flock_ray.protocol.contest_state import FINAL, ContestTerms
from flock_ray.protocol.encoding import to_hex
from flock_ray.telemetry.table import Console
from flock_ray.telemetry.text import seconds, short
from flock_ray.training.contest import RowScorer
from flock_ray.training.contest_data import ScoredRow
from flock_ray.training.contest_losses import ContestLosses
from flock_ray.verify.contest import DayReplay
from flock_ray.verify.contest_numbers import NO_LOSS, middle
from flock_ray.verify.contest_race import Rung
from flock_ray.verify.folder import RunFolder

_REFUSED = frozenset(Finding) - {Finding.VALID, Finding.UNAVAILABLE}
"""Findings that follow from a payload's bytes."""
_UNITS = {"text": "nats", "sql": "(0 right, 1 wrong)"}


@dataclass(frozen=True)
class Extent:
    """How much is scored again, and how closely.

    Attributes:
        days: None for all.
        rows: most rows of a rung, drawn; None for all.
        seed: of the draw.
        tolerance: micro-nats a token.
    """

    days: frozenset[int] | None
    rows: int | None
    seed: int
    tolerance: int

    @classmethod
    def of(cls, asked: Namespace, terms: ContestTerms) -> Extent:
        """What the command line asks for.

        Raises:
            ConfigError: a day that the contest does not have.
        """
        strangers = [day for day in asked.days or () if not 1 <= day <= terms.num_epochs]
        if strangers:
            raise ConfigError(f"--days names day {strangers[0]}; the contest has days 1 to {terms.num_epochs}")
        seed = secrets.randbelow(1 << 32) if asked.seed is None else asked.seed  # one that no forger knew
        allowed = terms.mechanism_parameters["audit_tolerance"] if asked.tolerance is None else asked.tolerance
        return cls(frozenset(asked.days) if asked.days else None, asked.rows, seed, allowed)

    def drawn(self, day: int, rung: Rung, num_rows: int) -> list[int]:
        """Indices into a rung's places of the rows that are scored again: of all rungs, those that were drawn first."""
        places = rung.places
        if self.rows is None or self.rows >= len(places):
            return list(range(len(places)))
        order = list(range(num_rows))
        random.Random(f"{self.seed} {day} {rung.name == FINAL}").shuffle(order)
        first = [place for place in order if place in places][: self.rows]
        return sorted(map(places.index, first))


@dataclass
class Tally:
    """What was scored again so far. A cell is a contender's loss on a row of a rung.

    Attributes:
        cells: how many.
        largest: difference, micro-nats a token; where: of which cell.
        left: cells that were not scored again, by the reason.
        refused: payloads that the gate refused, inspected again; gone: those that are not in the store any more.
    """

    cells: int = 0
    largest: Fraction = Fraction(0)
    where: str = ""
    left: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    gone: int = 0

    def add(self, difference: Fraction, where: str) -> None:
        """Count a cell."""
        self.cells += 1
        if difference > self.largest:
            self.largest, self.where = difference, where

    def lines(self, extent: Extent, took: float) -> Iterator[str]:
        """What came of it."""
        at = f" ({self.where})" if self.where else ""
        yield (
            f"rescored   {self.cells} of {self.cells + self.left.total()} cells in {seconds(took)}: largest difference"
            f" {float(self.largest) / 1e6:.6f} nats a token{at}, {extent.tolerance / 1e6:.6f} allowed"
        )
        for reason, count in self.left.items():
            yield f"           not scored again: {count} cells {reason}"
        if self.refused or self.gone:
            yield (
                f"           {self.refused} payloads that the gate refused were inspected again;"
                f" {self.gone} are not in the store"
            )


class Rescore:
    """Measures a contest's losses again, day by day."""

    def __init__(self, folder: RunFolder, config: ArenaConfig, terms: ContestTerms, extent: Extent, threads: int):
        """Load the base model.

        Raises:
            ModelError: it cannot be had, or is not the one of the terms.
        """
        self._folder, self._config, self._terms, self._extent = folder, config, terms, extent
        threads = threads or config.cluster.threads_per_worker
        self._base = load_agreed_base(config.model, terms.json(), threads, folder.path)
        targets, self._most = tuple(config.lora.target_modules), terms.mechanism_parameters["max_rank"]
        self._shapes = adapter_shapes(self._base.model, targets, self._most)
        self._max_bytes = layout(with_rank(self._shapes, self._most)).size
        scorer = RowScorer(self._base, targets, self._most, config.training.cohort_tokens)
        contest = config.contest
        self._losses = ContestLosses(
            scorer, self._base.tokenizer, terms.metric, contest.answer_tokens, contest.template_date
        )
        self._adapters: dict[bytes, Adapter] = {}
        self.tally = Tally()

    def day(self, replay: DayReplay, console: Console) -> None:
        """Score a day again, and inspect again what its gate refused.

        Raises:
            VerificationError: a median of the ballots, or a finding of the gate, is not what is found here.
            RunDirectoryError: a payload was pruned.
        """
        number, owners = replay.state.epoch, _owners(replay)
        if self._extent.days is None or number in self._extent.days:
            self._gate(replay)
        for rung in replay.rungs:
            cells = len(rung.contenders) * len(rung.places)
            if self._extent.days is not None and number not in self._extent.days:
                self.tally.left["of days that --days does not name"] += cells
            elif not rung.complete:
                self.tally.left["of rungs that had no quorum of ballots"] += cells
            else:
                self._rung(replay, rung, owners, console)
        self._losses.forget()
        self._adapters.clear()

    def _gate(self, replay: DayReplay) -> None:
        for one in replay.submissions:
            state, phase, reason = one.steps[-1]
            if (state, phase) != ("refused", "gate") or reason not in _REFUSED or one.payload is None:
                continue
            data = self._folder.blob(one.payload, self._max_bytes)
            if data is None:
                self.tally.gone += 1
                continue
            self.tally.refused += 1
            finding = inspect(data, self._shapes, self._most)[0]
            if finding != reason:
                raise VerificationError(
                    f"day {replay.state.epoch}: the gate refused node {one.member}'s payload {to_hex(one.payload)} as"
                    f" {reason}, and it is {finding}"
                )

    def _rung(self, replay: DayReplay, rung: Rung, owners: dict[bytes, int], console: Console) -> None:
        what, final = f"day {replay.state.epoch} {rung.name}", rung.name == FINAL
        rows = self._rows(replay, final)
        drawn = self._extent.drawn(replay.state.epoch, rung, len(rows))
        medians = {payload: _medians(rung, payload) for payload in rung.contenders}
        told = {payload: median for payload, median in medians.items() if median is not None}
        unscored, beyond = len(rung.contenders) - len(told), len(rung.places) - len(drawn)
        self.tally.left.update(
            {
                "of contenders that no quorum of a rung's seats measured": unscored * len(rung.places),
                f"of rows that --rows {self._extent.rows} left out; drawn with --seed {self._extent.seed}": (
                    beyond * len(told)
                ),
            }
        )
        self.tally.left = +self.tally.left  # reasons that count something
        adapters = {payload: self._adapter(payload, f"{what}: node {owners[payload]}'s payload") for payload in told}
        places = [rung.places[at] for at in drawn]
        groups = self._losses.missing(final, adapters, places)
        total, done = sum(len(together) for _, together in groups), 0

        def tick() -> None:
            nonlocal done
            done += 1
            console.progress(f"score {what} again", done, total)

        if total:
            console.progress(f"score {what} again", 0, total)
        self._losses.measure(replay.rungs[0].seed, final, groups, rows, tick)
        for payload, median in told.items():
            again = self._losses.column(final, payload, places)
            for at, place, loss in zip(drawn, places, again, strict=True):
                where = f"{what}, node {owners[payload]}'s payload {short(to_hex(payload))}, row {place + 1}"
                self._compare(where, median[at], loss, rung.lengths[at][0])

    def _compare(self, where: str, median: int, loss: int, tokens: int) -> None:
        difference = Fraction(abs(median - loss), tokens)
        if difference > self._extent.tolerance:
            unit = _UNITS[self._terms.metric]
            raise VerificationError(
                f"{where}: the ballots' median is {_loss(median, unit)}, scored again it is {_loss(loss, unit)};"
                f" {self._extent.tolerance / 1e6:.6f} a token are allowed, on {tokens} of them"
            )
        self.tally.add(difference, where)

    def _rows(self, replay: DayReplay, final: bool) -> tuple[ScoredRow, ...]:
        """The rows of a day or set B, with their tokens, and their questions under `sql`."""
        state, contest = replay.state, self._config.contest
        name = f"rows/{FINAL if final else state.epoch}.json"
        rows = state.final_rows if final else state.rows
        try:
            return read_rows_of(
                self._folder.json(name), rows, self._base, state.terms.metric, contest.max_row_tokens,
                contest.template_date,
            )  # fmt: skip
        except ValueError as error:
            raise VerificationError(f"{name}: {error}") from None

    def _adapter(self, payload: bytes, whose: str) -> Adapter:
        if payload not in self._adapters:
            self._adapters[payload] = self._fetch(payload, whose)
        return self._adapters[payload]

    def _fetch(self, payload: bytes, whose: str) -> Adapter:
        data = self._folder.blob(payload, self._max_bytes)
        if data is None:
            raise self._folder.lacking(f"{whose} {to_hex(payload)}, which is to be scored again,")
        finding, adapter = inspect(data, self._shapes, self._most)
        if adapter is None or finding is not Finding.VALID:
            raise VerificationError(f"{whose} {to_hex(payload)} passed the gate, and is {finding}")
        return adapter


def _owners(replay: DayReplay) -> dict[bytes, int]:
    """{payload: the node that submitted it first}."""
    today = {one.payload: one.member for one in reversed(replay.submissions) if one.payload}
    return today | {one.payload: one.member for one in replay.state.earlier}


def _medians(rung: Rung, payload: bytes) -> list[int] | None:
    """Of each row, the lower median over the seats that measured a contender; None without a quorum of them."""
    column = rung.column(payload)
    seated = [voter for voter in rung.seats.voters if voter in column]
    if len(seated) < rung.seats.quorum:
        return None
    return [middle(column[voter][row] for voter in seated) for row in range(len(rung.places))]


def _loss(value: int, unit: str) -> str:
    return "none that is finite" if value >= NO_LOSS else f"{value / 1e6:.6f} {unit}"


def rescore(folder: RunFolder, days: Sequence[DayReplay], asked: Namespace, emit: Callable[[str], None]) -> None:
    """Measure again what the ballots of a verified contest say, and tell how much was and what the difference is.

    Args:
        folder: of the run.
        days: as they were replayed.
        asked: the command line.
        emit: takes a line of text.

    Raises:
        VerificationError: the first cell that lies outside the tolerance.
        ConfigError, ModelError, RunDirectoryError: it cannot be done.
    """
    if not days:
        emit("rescored   nothing: every day of the contest was abandoned")
        return
    terms, config, began = days[0].state.terms, load_arena_config(folder.path), time.monotonic()
    extent = Extent.of(asked, terms)
    if asked.model:
        config = replace(config, model=replace(config.model, source="folder", path=str(asked.model)))
    again = Rescore(folder, config, terms, extent, asked.threads)
    with Console() as console:
        for replay in days:
            again.day(replay, console)
    for line in again.tally.lines(extent, time.monotonic() - began):
        emit(line)
