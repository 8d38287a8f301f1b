"""The leaderboard of a contest: one page that needs nothing else, and the same as JSON, both from the days' records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flock_ray.protocol.contest import VESTED
from flock_ray.protocol.contest_consensus import lower_median
from flock_ray.protocol.contest_entries import Entry, Status
from flock_ray.protocol.contest_race import RungResult, own_scores
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_scores import Difference, paired_difference
from flock_ray.protocol.contest_state import FINAL
from flock_ray.store.files import plain
from flock_ray.telemetry import text
from flock_ray.telemetry.charts import standings_chart

_LONGEST_NAME = 40
_UNITS = {"strict": "nats a token", "flock": "bits a byte"}


@dataclass(frozen=True)
class Standing:
    """One submission on one day. Scores are in millionths of the scorer's unit, differences micro-nats a token.

    Attributes:
        node: its number among the members; name, account: its own.
        rank: in the order of pay, from 1; None where it is refused or an unpaid copy.
        moved: ranks won since the day before; None where it has no rank on one of the two.
        payload: SHA-256 of its adapter; None before it was revealed.
        rung: the last that scored it on the day's rows, None for none.
        score: joint score there; standard_error: over its rows, under the scorer `strict`.
        behind: how much worse than the leader on the same rows, by the seats' median; behind_error: its paired
            standard error.
        spread: from the lowest to the highest score that a validator gave it there.
        b_score, b_rank: on set B, on the last day.
        stake: after the day, wei; earned: on this day and so far; held: until the contest's end.
        outcome: its last state in words: why it is refused, eliminated or unpaid, and in which rung.
        copy_of: the payload that it is a copy of.
    """

    node: int
    name: str
    account: str
    rank: int | None
    moved: int | None
    payload: bytes | None
    rung: str | None
    score: int | None
    standard_error: int | None
    behind: int | None
    behind_error: int | None
    spread: int | None
    b_score: int | None
    b_rank: int | None
    stake: int
    earned_today: int
    earned: int
    held: int
    slashed: int
    state: str
    outcome: str
    copy_of: bytes | None


@dataclass(frozen=True)
class ValidatorRow:
    """One validator on one day.

    Attributes:
        seats: of rungs that counted; work: losses times seats; distance: mean, of its scores from the joint ones.
        failed: whether a ballot of its lay outside the tolerance: it is unpaid.
        stake: after the day, wei; earned: on this day and so far; slashed: on this day.
    """

    member: int
    name: str
    account: str
    seats: int
    work: int
    distance: int
    failed: bool
    stake: int
    earned_today: int
    earned: int
    slashed: int


@dataclass(frozen=True)
class DayView:
    """One day: its standings by rank, those without one last, and who validated."""

    day: int
    rungs: tuple[tuple[str, int, int], ...]
    """(name, contenders, rows) of each that had a quorum."""
    record: bytes
    leader: bytes
    standings: tuple[Standing, ...]
    validators: tuple[ValidatorRow, ...]


def leaderboard(
    records: Sequence[ContestRecord], names: Mapping[int, str], facts: Mapping[str, object], verify: str
) -> tuple[str, dict[str, Any]]:
    """The page, and the same for programs.

    Args:
        records: of the days so far, in order, at least one.
        names: {member: what it calls itself}; others go by their accounts. Anything may stand there.
        facts: whatever is worth telling of the contest (title, base model, chain, ...), by name.
        verify: the command that derives and checks all of this again.

    Returns:
        (HTML that loads nothing, JSON with amounts in integer wei and hashes as 0x-hex).
    """
    labels = _labels(records[-1], names)
    days = [_day(record, records[at - 1] if at else None, labels) for at, record in enumerate(records)]
    terms, last = records[-1].state.terms, days[-1]
    environment = Environment(
        loader=PackageLoader("flock_ray.telemetry"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "tokens": text.tokens, "micro": _micro, "difference": _difference, "short": text.short, "hex": _hex,
        "moved": _moved,
    }  # fmt: skip
    page = environment.get_template("leaderboard.html.jinja").render(
        days=days,
        last=last,
        num_days=terms.num_epochs,
        unit=_UNITS[terms.scorer],
        tiles=_tiles(records[-1], last, labels),
        drawing=standings_chart([_point(one) for one in last.standings if one.behind is not None]),
        facts={text.printable(str(name)): text.printable(str(value)) for name, value in facts.items()},
        task=records[-1].task,
        verify=text.printable(verify),
    )
    value = {
        "task": records[-1].task, "scorer": terms.scorer, "unit": f"millionths of {_UNITS[terms.scorer]}",
        "metric": terms.metric, "num_days": terms.num_epochs, "days": days, "facts": dict(facts), "verify": verify,
    }  # fmt: skip
    return page, plain(value)


def _labels(record: ContestRecord, names: Mapping[int, str]) -> dict[int, str]:
    """A name for each member that no other has: printable, not too long, with its number where two are alike."""
    short = {
        member: text.printable(names.get(member) or text.short(state.account))[:_LONGEST_NAME]
        for member, state in enumerate(record.members)
    }
    seen = Counter(short.values())
    return {member: name if seen[name] == 1 else f"{name} #{member}" for member, name in short.items()}


def _day(record: ContestRecord, before: ContestRecord | None, labels: Mapping[int, str]) -> DayView:
    results = {result.rung.name: result for result in record.results if result.complete}
    standings = [_standing(record, entry, before, results, labels) for entry in record.entries]
    standings.sort(key=lambda one: (one.rank is None, one.rank or 0, one.score is None, one.node))
    return DayView(
        record.epoch,
        tuple((name, len(result.rung.contenders), len(result.rung.rows)) for name, result in results.items()),
        record.digest,
        record.adapter,
        tuple(standings),
        _validators(record, results.values(), labels),
    )


def _standing(
    record: ContestRecord,
    entry: Entry,
    before: ContestRecord | None,
    results: Mapping[str, RungResult],
    labels: Mapping[int, str],
) -> Standing:
    node, payload = entry.member, entry.payload
    rank = _place(record.ranking, node)
    rank_before = _place(before.ranking, node) if before else None
    on_chunk = [result for name, result in results.items() if name != FINAL and payload in result.scores]
    last = on_chunk[-1] if on_chunk and payload and on_chunk[-1].finite(payload) else None
    b = results.get(FINAL)
    own = list(own_scores(record.state, last, payload).values()) if last and payload else []
    difference = _behind(record, on_chunk, payload) if last and payload else None
    after = record.members[node]
    return Standing(
        node=node,
        name=labels[node],
        account=after.account,
        rank=rank,
        moved=rank_before - rank if rank and rank_before else None,
        payload=payload,
        rung=last.rung.name if last else None,
        score=last.scores[payload] if last and payload else None,
        standard_error=_standard_error(record, last, payload) if last and payload else None,
        behind=difference.value if difference else None,
        behind_error=difference.standard_error if difference else None,
        spread=max(own) - min(own) if own else None,
        b_score=b.scores[payload] if b and payload and b.finite(payload) else None,
        b_rank=_place(record.final_ranking, node),
        stake=after.stake,
        earned_today=record.rewards.get(node, 0),
        earned=after.earned,
        held=after.noted.get(VESTED, 0),
        slashed=_slashed(record, node),
        state=entry.step.state,
        outcome=_outcome(entry, on_chunk),
        copy_of=entry.copy_of,
    )


def _place(ranking: Sequence[int], node: int) -> int | None:
    return ranking.index(node) + 1 if node in ranking else None


def _slashed(record: ContestRecord, member: int) -> int:
    return sum(slash.amount for slash in record.slashes if slash.member == member)


def _standard_error(record: ContestRecord, result: RungResult, payload: bytes) -> int | None:
    """Of a mean over tokens, as rows vary: the lower median over seats."""
    if record.state.terms.scorer != "strict":
        return None
    columns, rows = result.columns(payload), result.rung.rows
    errors = {
        validator: paired_difference(column, (0,) * len(rows), rows).standard_error
        for validator, column in columns.items()
    }
    return lower_median([errors[validator] for validator in result.seats.voters if validator in errors])


def _behind(record: ContestRecord, results: Sequence[RungResult], payload: bytes) -> Difference | None:
    """What lies between a submission and the day's leader in the last rung that scored both."""
    for result in reversed(results):
        if result.finite(payload) and result.finite(record.adapter) and record.adapter in result.rung.contenders:
            seats = result.differences(payload, record.adapter)
            if seats is not None:
                return Difference(
                    lower_median([seat.value for seat in seats]), lower_median([seat.standard_error for seat in seats])
                )
    return None


def _outcome(entry: Entry, results: Sequence[RungResult]) -> str:
    """The last state in words; of an elimination the figures too."""
    step = entry.step
    why = results[-1].eliminated.get(entry.payload) if results and entry.payload else None
    if why and step.state == "eliminated":
        figures = f"{why.difference / 1e6:.4f} behind, band {why.band / 1e6:.4f}"
        return f"eliminated in {results[-1].rung.name}: worse than the last one kept ({figures})"
    return Status(step.state, step.phase, step.reason, None).text()


def _validators(
    record: ContestRecord, results: Iterable[RungResult], labels: Mapping[int, str]
) -> tuple[ValidatorRow, ...]:
    seats: Counter[int] = Counter()
    for result in results:
        for validator in result.ballots:
            seats[validator] += result.seats.voter_seats[validator]
    rows = []
    slashed = {slash.member for slash in record.slashes if record.members[slash.member].slots}
    for member in sorted(set(record.validators) | slashed):
        work, distance, failed = record.validators.get(member, (0, 0, False))
        after = record.members[member]
        rows.append(
            ValidatorRow(
                member, labels[member], after.account, seats[member], work, distance, failed, after.stake,
                record.rewards.get(member, 0), after.earned, _slashed(record, member),
            )
        )  # fmt: skip
    return tuple(rows)


def _tiles(record: ContestRecord, day: DayView, labels: Mapping[int, str]) -> list[tuple[str, str]]:
    """The contest in four numbers, each with what it says."""
    ranked = [one for one in day.standings if one.rank is not None]
    first = labels[record.ranking[0]] if record.ranking else "-"
    score = next((_micro(one.score) for one in ranked), "-")
    refused = sum(one.state == "refused" for one in day.standings)
    copies = sum(one.copy_of is not None for one in day.standings)
    forwards = known = 0
    for name, contenders, rows in day.rungs:  # a rung begins with the rows of the one before
        if name != FINAL:
            forwards, known = forwards + contenders * (rows - known), rows
    everything = max((contenders for _, contenders, _ in day.rungs), default=0) * len(record.state.rows)
    return [
        (first, f"leads day {day.day} with {score}"),
        (
            f"{len(ranked)} of {len(day.standings)}",
            f"submissions ranked; {refused} refused, {copies} {'copy' if copies == 1 else 'copies'}",
        ),
        (f"{forwards:,} of {everything:,}", "losses measured; eliminations saved the others"),
        (text.tokens(sum(record.rewards.values())), "tokens paid for the day"),
    ]


def _point(one: Standing) -> tuple[str, float, float, str]:
    """Label, how far behind, its error, and a colour's name."""
    assert one.behind is not None and one.behind_error is not None
    colour = "bad" if one.copy_of and one.rank is None else "muted" if one.state == "eliminated" else "good"
    return one.name, one.behind / 1e6, one.behind_error / 1e6, colour


def _micro(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.4f}"


def _difference(value: int | None) -> str:
    """Of validators that agree, down to a millionth."""
    return "-" if value is None else f"{value / 1e6:.6f}"


def _moved(ranks: int | None) -> str:
    return "" if ranks is None else "=" if ranks == 0 else f"▲{ranks}" if ranks > 0 else f"▼{-ranks}"


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
