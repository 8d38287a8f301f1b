from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flock_ray.telemetry import charts
from flock_ray.telemetry.report import write_report
from flock_ray.telemetry.summary import build_summary
from flock_ray.telemetry.views import Answer, EpochView, MemberTotal
from tests.telemetry.pages import Page, require_narrow

CHARTS = (
    charts.loss_chart, charts.change_chart, charts.step_chart, charts.score_chart, charts.money_chart,
    charts.time_chart,
)  # fmt: skip
ANSWERS = [
    Answer("What is <b>Ray</b>?", "A fish.", "A framework for `distributed` computing."),
    Answer("And LoRA?", "", "x" * 300),
]


def test_the_report_needs_nothing_outside_it_and_is_the_same_each_time(
    tmp_path: Path, summary: dict[str, Any], epochs: list[EpochView], members: list[MemberTotal]
) -> None:
    path = tmp_path / "report.html"
    write_report(path, summary, epochs, members, ANSWERS)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    write_report(tmp_path / "again", summary, epochs, members, ANSWERS)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert page.resources == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "@import" not in html
    assert page.tags.count("svg") == len(CHARTS)
    assert len(page.ids) == len(set(page.ids)), "the charts share one page"
    assert page.tags.count("tr") == 2 * (1 + 8) + 3 * (1 + 8)
    for fact in (
        summary["run_id"],
        summary["task_id"],
        epochs[0].settlement_tx,
        "312,845",
        "12,345",
        "contracts.settlement",
        "-7.68%",
        "What is &lt;b&gt;Ray&lt;/b&gt;?",
        "A framework for `distributed` computing.",
    ):
        assert str(fact) in html


def test_bars_of_change_are_for_few_epochs(
    tmp_path: Path, summary: dict[str, Any], epochs: list[EpochView], members: list[MemberTotal]
) -> None:
    write_report(tmp_path / "few", summary, epochs, members)
    assert "Change by silo" in (tmp_path / "few").read_text()
    write_report(tmp_path / "many", summary, [*epochs, replace(epochs[-1], epoch=4)], members)
    assert "Change by silo" not in (tmp_path / "many").read_text()
    untold = [replace(epoch, steps={}) for epoch in epochs]
    write_report(tmp_path / "untold", summary, untold, members)
    assert "Local training" not in (tmp_path / "untold").read_text()


NUMBER = re.compile(r"^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?$")


@pytest.mark.parametrize(
    ("chart", "values"),
    [
        (charts.loss_chart, [1.0131, 1.0777, 2.9912]),
        (charts.loss_chart, [0.0013, 0.0019, 0.0042]),
        (charts.change_chart, [5.0, 2.5, 2.401]),
        (charts.step_chart, [11.7, 3.3, 0.62]),
    ],
)
def test_ticks_cover_the_points(chart: Any, values: list[float], epochs: list[EpochView]) -> None:
    views = []
    for epoch, (before, after) in zip(epochs, [*pairwise(values), (values[-1], values[-1])], strict=True):
        members = tuple(replace(member, loss_before=before, loss_after=after) for member in epoch.members)
        views.append(replace(epoch, members=members, steps={0: tuple(values)}))
    drawn = chart(views)
    labels = [float(text) for text in re.findall(r">([^<>]+)</text>", drawn) if NUMBER.match(text.strip())]
    change = values[-1] - values[0]
    covered = [0.0, change] if chart is charts.change_chart else values
    assert min(labels) <= min(covered) and max(labels) >= max(covered)


def test_the_page_is_readable_on_a_narrow_screen(
    tmp_path: Path, summary: dict[str, Any], epochs: list[EpochView], members: list[MemberTotal]
) -> None:
    path = tmp_path / "report.html"
    write_report(path, summary, epochs, members, ANSWERS)
    require_narrow(path.read_text(), tmp_path)


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_is_sound_xml_whose_every_colour_the_page_decides(chart: Any, epochs: list[EpochView]) -> None:
    svg = chart(epochs)
    ElementTree.fromstring(re.sub(r"\bxlink:", "", svg))
    assert not re.search(r"#0f1e[0-9a-f]{2}", svg)
    assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg)) == set()
    assert "var(--" in svg


def test_every_silo_and_every_score_is_drawn(epochs: list[EpochView]) -> None:
    losses = charts.loss_chart(epochs)
    for member in epochs[0].members:
        assert f">{member.silo}" in losses
    assert "xml (adversary)" in losses
    assert "mean of honest silos" in losses
    drawn = charts.score_chart(epochs)
    numbers = re.findall(r">([123])</text>", drawn)
    assert sorted(numbers) == ["1"] * 4 + ["2"] * 4 + ["3"] * 4


def test_end_labels_keep_their_distance() -> None:
    placed = list(charts._spread([1.0, 1.01, 1.02, 3.0], 0.5))
    assert all(after - before >= 0.5 - 1e-12 for before, after in pairwise(placed))
    assert sum(placed) == pytest.approx(6.03)


def test_hostile_names_are_text_in_the_page(
    tmp_path: Path, epochs: list[EpochView], members: list[MemberTotal]
) -> None:
    name = r"<script>alert(1)</script>$\frac$&amp;"
    renamed = [replace(members[0], silo=name), *members[1:]]
    views = [replace(view, members=(replace(view.members[0], silo=name), *view.members[1:])) for view in epochs]
    summary = build_summary(
        run_id=name, task_id=name, model=name, epochs=views, members=renamed, final_adapter_hash="",
        chain={"backend": name}, facts={name: name},
    )  # fmt: skip
    write_report(tmp_path / "report.html", summary, views, renamed)
    assert "<script" not in (tmp_path / "report.html").read_text()


def test_a_run_without_ballots_chain_losses_or_epochs_has_a_report_too(
    tmp_path: Path, epochs: list[EpochView], members: list[MemberTotal]
) -> None:
    bare = replace(
        epochs[0],
        members=tuple(
            replace(m, loss_before=None, loss_after=None, score=None, status=None, reward=0, slashed=0)
            for m in epochs[0].members
        ),
        candidate_score=None, band=None, factor_averaging_error=None, settlement_tx=None, gas_used=None,
        wall_seconds={},
    )  # fmt: skip
    for views in ([], [bare]):
        summary = build_summary(
            run_id="r", task_id="0x", model="m", epochs=views, members=members, final_adapter_hash="0x",
            chain={"backend": "none", "chain_id": None, "contracts": {}}, facts={},
        )  # fmt: skip
        write_report(tmp_path / "report.html", summary, views, members)
        assert (tmp_path / "report.html").read_text().endswith("</html>")


def test_many_members_and_epochs_stay_readable(epochs: list[EpochView]) -> None:
    many = tuple(replace(epochs[0].members[i % 8], index=i, silo=f"silo {i}") for i in range(40))
    views = [replace(epochs[0], epoch=i + 1, members=many) for i in range(60)]
    losses = charts.loss_chart(views)
    assert losses.count(">epoch ") <= charts.MAX_TICKS
    assert ">silo 7" not in losses
    for chart in CHARTS[1:]:
        chart(views[:3])
    charts.step_chart(views)
