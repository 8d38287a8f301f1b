from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.telemetry.swept import (
    SweptRun,
    as_json,
    columns,
    grouped,
    mean_and_error,
    run_figures,
    shown_mean,
    table,
    write_page,
)
from tests.telemetry.pages import Page, require_narrow


def swept(number: int, settings: dict[str, Any], summary: dict[str, Any] | None, loss: float = 0.0) -> SweptRun:
    """A run whose last loss is moved by `loss`; without a summary one that failed."""
    figures, losses = run_figures(summary) if summary else ({}, [])
    if summary:
        losses = [*losses[:-1], losses[-1] + loss]
        figures = figures | {"loss_after": figures["loss_after"] + loss}
    code, error = (0, "") if summary else (20, "silo <3> is empty")
    place = f"../points/{number}"
    return SweptRun(
        f"{number:064x}", settings, code, error, 1, 5.0, figures, losses, f"{place}/d/t", f"{place}/output.log"
    )


@pytest.fixture
def runs(summary: dict[str, Any]) -> list[SweptRun]:
    settings = [{"mechanism": name, "seed": seed} for name in ("flock", "open") for seed in (1, 2, 3)]
    moved = [0.01, 0.02, 0.06, 0.0, 0.0, 0.0]
    whole = [swept(number, *one) for number, one in enumerate(zip(settings, [summary] * 6, moved, strict=True))]
    return [*whole[:-1], swept(5, settings[-1], None)]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_the_mean_and_its_standard_error(values: list[float]) -> None:
    mean, error = mean_and_error(values)
    count = len(values)
    assert mean == pytest.approx(sum(values) / count, abs=1e-9)
    if count == 1:
        assert error is None
    else:
        spread = math.sqrt(sum((value - sum(values) / count) ** 2 for value in values) / (count - 1) / count)
        assert error == pytest.approx(spread, abs=1e-9)


def test_runs_that_differ_in_their_seed_only_are_one_row(runs: list[SweptRun]) -> None:
    flock, opened = grouped(runs)
    assert (flock.settings, len(flock.runs), flock.num_failed) == ({"mechanism": "flock"}, 3, 0)
    assert (opened.settings, len(opened.runs), opened.num_failed) == ({"mechanism": "open"}, 2, 1)
    base = opened.runs[0].figures["loss_after"]
    titles, rows = table([flock, opened], columns(runs))
    assert titles[:4] == ["mechanism", "runs", "failed", "loss before"]
    cells = [dict(zip(titles, row, strict=True)) for row in rows]
    # 0.01, 0.02, 0.06: mean 0.03, standard deviation √0.0007, over √3
    assert cells[0]["loss after"] == f"{base + 0.03:.4f} ± {math.sqrt(0.0007 / 3):.4f}"
    assert cells[1]["loss after"] == f"{base:.4f} ± 0.0000" and cells[1]["failed"] == "1"
    assert cells[0]["epochs accepted"] == "3 ± 0"
    told = as_json([flock, opened])[0]
    assert told["figures"]["loss_after"]["runs"] == 3
    assert told["figures"]["loss_after"]["mean"] == pytest.approx(base + 0.03)
    assert "model" not in told["figures"]


def test_without_seeds_no_error_is_made_up(summary: dict[str, Any]) -> None:
    one = swept(1, {"mechanism": "flock"}, summary)
    titles, (row,) = table(grouped([one]), columns([one]))
    assert "failed" not in titles and not any("±" in cell for cell in row)


def test_figures_as_people_read_them() -> None:
    assert shown_mean("loss_after", []) == shown_mean("loss_after", [None, None]) == "-"
    assert shown_mean("loss_after", [2.0, None, 4.0]) == "3.0000 ± 1.0000"
    assert shown_mean("epochs_accepted", [1, 2]) == "1.50 ± 0.50"
    assert shown_mean("slashed_wei", [2 * 10**18, 4 * 10**18]) == "3.00 ± 1.00"
    assert shown_mean("adversaries_share", [0.5]) == "50.0%"


def test_what_cheats_earned(summary: dict[str, Any]) -> None:
    figures, losses = run_figures(summary)
    earned = {member["adversary"]: 0 for member in summary["members"]}
    for member in summary["members"]:
        earned[member["adversary"]] += member["earned_wei"]
    assert figures["adversaries_share"] == earned[True] / sum(earned.values()) > 0
    assert losses[0] == fmean(summary["epochs"][0]["eval_loss_before"].values())
    nobody = {**summary, "members": [{**member, "earned_wei": 0} for member in summary["members"]]}
    assert run_figures(nobody)[0]["adversaries_share"] is None


def contest_summary() -> dict[str, Any]:
    def entry(rank: int | None, final: int | None, score: int) -> dict[str, Any]:
        return {"rank": rank, "final_rank": final, "score": score, "final_score": score + 100_000}

    day = {
        "submissions": [entry(2, 1, 2_000_000), entry(1, 2, 1_500_000), entry(None, None, 9)],
        "validators": [{"failed": True}, {"failed": False}],
        "gas_used": 7,
        "wall_seconds": {"score": 2.0, "gate": 1.0},
    }
    members = [{"earned": 30, "slashed": 0, "adversary": ""}, {"earned": 10, "slashed": 5, "adversary": "gauge_copy"}]
    return {"kind": "contest", "model": "m", "days": [day, day], "members": members, "final_adapter_hash": "0x1"}


def test_the_figures_of_a_contest() -> None:
    figures, losses = run_figures(contest_summary())
    assert losses == [] and figures["days"] == 2
    assert (figures["leader_score"], figures["leader_final_score"]) == (1.5, 2.1)
    assert (figures["audits_failed"], figures["adversaries_share"], figures["slashed_wei"]) == (2, 0.25, 5)
    assert (figures["gas_of_settlements"], figures["seconds"]) == (14, 6.0)
    run = SweptRun("1", {"seed": 1}, 0, "", 1, 1.0, figures, [], "r", "l")
    assert run.page == "r/leaderboard.html" and "leader_score" in columns([run])


def test_the_page_stands_alone_and_leads_to_the_runs(tmp_path: Path, runs: list[SweptRun]) -> None:
    write_page(tmp_path / "index.html", "Sweep of <x>", {"code": "commit 0"}, runs)
    html = (tmp_path / "index.html").read_text()
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "x"} & set(page.tags) and page.tags.count("svg") == 1
    assert len(page.ids) == len(set(page.ids)) and page.tags.count("tr") == 1 + 2 + 1 + 6
    assert "a href=../points/0/d/t/report.html" in page.resources and "a href=../points/5/output.log" in page.resources
    for fact in ("Sweep of &lt;x&gt;", "mechanism=flock</text>", "silo &lt;3&gt; is empty", "exit code 20", "± "):
        assert fact in html
    require_narrow(html, tmp_path)


def test_pages_of_contests_and_of_nothing_yet(tmp_path: Path) -> None:
    figures, losses = run_figures(contest_summary())
    run = SweptRun("1", {"seed": 1}, 0, "", 1, 1.0, figures, losses, "r", "l")
    for runs in ([], [run]):
        write_page(tmp_path / "index.html", "Sweep", {}, runs)
        assert "<svg" not in (tmp_path / "index.html").read_text()
