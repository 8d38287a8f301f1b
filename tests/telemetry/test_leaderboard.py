"""The leaderboard of days that were really derived, whose figures are recomputed here from what was played."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import pytest

from flock_ray.protocol.contest_message import ContestKind
from flock_ray.protocol.contest_race import Rung
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.encoding import to_hex
from flock_ray.telemetry.charts import MAX_MEMBERS, standings_chart
from flock_ray.telemetry.leaderboard import leaderboard
from tests.protocol.contest_players import (
    SPREAD,
    ContestPlay,
    graded,
    new_contest,
    payload_of,
    settled,
)
from tests.telemetry.pages import Page, require_narrow

NODES = tuple(range(7, 23))
LEADER, QUIET, SECOND, THIEF = 7, 12, 8, 22
LIAR = 1
VERIFY = "flock-ray verify runs/contest --anchor 0xabc"


def lie(validator: int, payload: bytes, rung: Rung, position: int, loss: int) -> int:
    return loss + 40_000_000 if validator == LIAR and position == 0 else loss


@cache
def records() -> tuple[ContestRecord, ...]:
    """Three days: on the second and third the second node leads, and a thief sends the first day's leader."""
    state = new_contest()
    found = []
    for day in (1, 2, 3):
        better = {payload_of(day, SECOND): -SPREAD} if day > 1 else {}
        play = ContestPlay(
            quality=graded(state, better),
            payloads={THIEF: payload_of(1, LEADER)} if day > 1 else {},
            measures=lie,
            rescores=range(7) if day == 2 else (),
            silent=[(ContestKind.MANIFEST, QUIET)] if day == 3 else (),
        )
        found.append(play.record(state))
        state = settled(state, found[-1])
    return tuple(found)


def both(days: int = 3, names: dict[int, str] | None = None) -> tuple[str, dict[str, Any]]:
    return leaderboard(records()[:days], names or {}, {"base model": "SmolLM2"}, VERIFY)


def standing(data: dict[str, Any], node: int, day: int = 3) -> dict[str, Any]:
    return next(one for one in data["days"][day - 1]["standings"] if one["node"] == node)


def test_ranks_are_those_of_the_record_and_their_changes_count_from_the_day_before() -> None:
    _, data = both()
    for day, record in enumerate(records(), start=1):
        ranked = [one["node"] for one in data["days"][day - 1]["standings"] if one["rank"] is not None]
        assert tuple(ranked) == record.ranking
        assert len(data["days"][day - 1]["standings"]) == len(record.entries)
    assert standing(data, LEADER, 1)["moved"] is None
    assert (standing(data, LEADER, 2)["moved"], standing(data, SECOND, 2)["moved"]) == (-1, 1)
    assert standing(data, THIEF, 2)["moved"] is None and standing(data, 9, 2)["moved"] == 0


def test_scores_errors_and_spread_are_those_of_what_was_played() -> None:
    """The leader's score is the mean over all rows; its error and the distance of the second are recomputed by hand."""
    record, (_, data) = records()[0], both()
    result = record.results[-1]
    validator = min(set(result.ballots) - {LIAR})
    tokens = [row.num_tokens for row in result.rung.rows]
    losses = {node: result.columns(payload_of(1, node))[validator] for node in (LEADER, SECOND)}
    one, other = standing(data, LEADER, 1), standing(data, SECOND, 1)
    assert one["score"] == sum(losses[LEADER]) // sum(tokens) and one["rung"] == "rung_3"

    def error(values: list[int]) -> float:
        ratio = sum(values) / sum(tokens)
        squares = sum((value - ratio * size) ** 2 for value, size in zip(values, tokens, strict=True))
        return (len(values) / (len(values) - 1) * squares) ** 0.5 / sum(tokens)

    gaps = [b - a for a, b in zip(losses[LEADER], losses[SECOND], strict=True)]
    assert one["standard_error"] == pytest.approx(error(list(losses[LEADER])), abs=2)
    assert other["behind"] == pytest.approx(sum(gaps) / sum(tokens), abs=2)
    assert other["behind_error"] == pytest.approx(error(gaps), abs=2)
    assert (one["behind"], one["behind_error"]) == (0, 0)
    sat = LIAR in result.ballots
    assert one["spread"] == (pytest.approx(40_000_000 / sum(tokens), abs=2) if sat else 0)
    assert any(standing(data, node, 1)["spread"] for node in NODES)  # the liar sat in some rung


def test_everybody_reads_what_became_of_its_submission() -> None:
    html, data = both()
    assert standing(data, QUIET)["outcome"] == "refused: it was not revealed in time"
    assert standing(data, QUIET)["state"] == "refused" and standing(data, QUIET)["payload"] is None
    copy = standing(data, THIEF)
    assert copy["rank"] is None and copy["copy_of"] == to_hex(payload_of(1, LEADER))
    assert "within the copy distance" in copy["outcome"]
    worst = standing(data, 21)
    assert re.fullmatch(r"eliminated in rung_1: .* \(0\.\d{4} behind, band 0\.\d{4}\)", worst["outcome"])
    why = records()[2].results[0].eliminated[payload_of(3, 21)]
    assert f"({why.difference / 1e6:.4f} behind" in worst["outcome"]
    for one in data["days"][-1]["standings"]:
        assert one["outcome"] in html


def test_money_and_set_b_are_those_of_the_records() -> None:
    _, data = both()
    last = records()[-1]
    for day, record in enumerate(records(), start=1):
        for one in data["days"][day - 1]["standings"]:
            after = record.members[one["node"]]
            assert (one["stake"], one["earned"]) == (after.stake, after.earned)
            assert one["held"] == after.noted.get("vested", 0)
            assert one["earned_today"] == record.rewards.get(one["node"], 0)
    assert standing(data, LEADER, 1)["held"] > 0 == standing(data, LEADER, 3)["held"]
    assert standing(data, SECOND)["b_rank"] == 1
    final = last.results[-1]
    assert standing(data, SECOND)["b_score"] == final.scores[payload_of(3, SECOND)]
    assert standing(data, SECOND, 1)["b_score"] is None and standing(data, 21)["b_score"] is None


def test_validators_are_listed_with_audit_and_slash() -> None:
    _, data = both()
    rows = {day["day"]: {one["member"]: one for one in day["validators"]} for day in data["days"]}
    for day, record in enumerate(records(), start=1):
        assert rows[day].keys() == set(record.validators)
        for member, (work, distance, failed) in record.validators.items():
            one = rows[day][member]
            assert (one["work"], one["distance"], one["failed"]) == (work, distance, failed)
            assert one["seats"] == sum(
                result.seats.voter_seats[member] for result in record.results if member in result.ballots
            )
    assert rows[2][LIAR]["failed"] and rows[2][LIAR]["slashed"] == records()[1].slashes[0].amount > 0
    assert median(one["distance"] for one in rows[2].values()) == 0 < rows[2][LIAR]["distance"]


def test_the_page_needs_nothing_outside_it_and_is_the_same_each_time() -> None:
    html, data = both()
    page = Page(html)
    assert both() == (html, data)
    assert page.resources == [] and "@import" not in html
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids)) and page.tags.count("svg") == 1
    for fact in (VERIFY, "SmolLM2", to_hex(records()[-1].digest), to_hex(records()[-1].task), to_hex(payload_of(3, 9))):
        assert fact in html
    assert json.loads(json.dumps(data, allow_nan=False)) == data and data["verify"] == VERIFY


def test_the_page_is_readable_on_a_narrow_screen(tmp_path: Path) -> None:
    require_narrow(both(names={LEADER: "a" * 300})[0], tmp_path)


def test_hostile_names_and_facts_are_text() -> None:
    name = "<script>alert(1)</script>$\\frac$\x1b[31m&amp;" + "x" * 99
    html, data = leaderboard(records(), dict.fromkeys(NODES[:2], name), {name: name}, name)
    assert "<script" not in html and "\x1b" not in html
    names = {one["name"] for one in data["days"][0]["standings"]}
    assert len(names) == 16 and all(len(one) < 50 for one in names)  # two of one name are told apart


def test_the_chart_shows_who_was_scored_and_leaves_colours_to_the_page() -> None:
    points = [(f"node {i}", 0.1 * i, 0.01, "good") for i in range(MAX_MEMBERS + 3)]
    for shown in (points, [*points[:3], ("far", 99.0, 1.0, "bad")], [("alone", 0.0, 0.0, "good")], []):
        svg = standings_chart(shown)
        ElementTree.fromstring(re.sub(r"\bxlink:", "", svg))
        assert not re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg)
        for name, *_ in shown[:MAX_MEMBERS]:
            assert f">{name}</text>" in svg
    assert "node 66" not in standings_chart(points)
    assert standings_chart(points).count("LineCollection") == MAX_MEMBERS  # an error bar each


def test_days_without_a_quorum_without_entries_and_under_flocks_scorer_have_a_page_too() -> None:
    state = new_contest(4)
    ballots = [(ContestKind.RUNG_1_BALLOT, voter) for voter in range(7)]
    nobody = [(ContestKind.COMMITMENT, node) for node in range(7, 11)]
    for silent in (ballots, nobody):
        record = ContestPlay(quality=graded(state), silent=silent).record(state)
        html, data = leaderboard([record], {}, {}, VERIFY)
        assert all(one["rank"] is None for one in data["days"][0]["standings"]) and VERIFY in html
    flock = new_contest(4, scorer="flock")
    _, data = leaderboard([ContestPlay(quality=graded(flock)).record(flock)], {}, {}, VERIFY)
    first = data["days"][0]["standings"][0]
    assert data["unit"] == "millionths of bits a byte" and first["standard_error"] is None and first["score"] > 0
