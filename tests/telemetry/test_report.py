from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flock_ray.telemetry import charts
from flock_ray.telemetry.report import write_report
from flock_ray.telemetry.summary import build_summary
from flock_ray.telemetry.views import EpochView, MemberTotal

CHARTS = (charts.loss_chart, charts.score_chart, charts.money_chart, charts.time_chart)


class Page(HTMLParser):
    """Ids, loaded resources and cells of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.resources: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.resources.append(f"{tag} {name}={value}")


def test_the_report_needs_nothing_outside_it_and_is_the_same_each_time(
    tmp_path: Path, summary: dict[str, Any], epochs: list[EpochView], members: list[MemberTotal]
) -> None:
    path = tmp_path / "report.html"
    write_report(path, summary, epochs, members)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    write_report(tmp_path / "again", summary, epochs, members)
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
    ):
        assert str(fact) in html


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
