from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flock_ray.store.files import plain
from flock_ray.telemetry.comparison import ComparedRun, differing_settings, figures, shown, write_comparison
from tests.telemetry.test_report import Page


def runs(summary: dict[str, Any]) -> list[ComparedRun]:
    first = {"seed": 1, "training": {"steps": 4, "learning_rate": 0.1}, "chain": {"url": "http://key@a"}, "x": {}}
    second = {"seed": 2, "training": {"steps": 4, "learning_rate": 0.2}, "chain": {"url": "http://key@b"}}
    fewer = {**summary, "epochs": plain(summary["epochs"])[:1]}
    return [ComparedRun("day/<one>", "/runs/one", summary, first), ComparedRun("two", "/runs/two", fewer, second)]


def test_figures_are_those_of_the_summaries(summary: dict[str, Any]) -> None:
    one, two = map(figures, runs(summary))
    assert (one["epochs"], two["epochs"], one["epochs_accepted"]) == (3, 1, 3)
    assert one["loss_before"] == two["loss_before"] and one["loss_after"] < two["loss_after"] < one["loss_before"]
    assert one["gas_of_settlements"] == 312_845 + 265_310 + 268_902
    assert one["slashed_wei"] == 600 * 10**18
    told = shown(one)
    assert told["slashed"] == "600.00" and told["change of loss"] == "-7.68%" and told["members"] == "8"
    assert list(told) == list(shown(two))


def test_a_run_without_epochs_has_figures_too(summary: dict[str, Any]) -> None:
    empty = figures(ComparedRun("x", "/x", {**summary, "epochs": []}, {}))
    assert empty["loss_after"] is None
    assert shown(empty)["change of loss"] == shown(empty)["gas of settlements"] == "-"


def test_settings_that_differ_without_what_says_where_a_run_is(summary: dict[str, Any]) -> None:
    assert differing_settings(runs(summary)) == [
        ("seed", ["1", "2"]), ("training.learning_rate", ["0.1", "0.2"]), ("x", ["{}", "-"]),
    ]  # fmt: skip


def test_the_page_stands_alone(tmp_path: Path, summary: dict[str, Any]) -> None:
    write_comparison(tmp_path / "page.html", runs(summary))
    html = (tmp_path / "page.html").read_text()
    page = Page(html)
    assert page.resources == [] and not {"script", "link", "img", "iframe", "one"} & set(page.tags)
    assert page.tags.count("svg") == 1 and len(page.ids) == len(set(page.ids))
    for fact in (
        "day/&lt;one&gt;",
        "/runs/two",
        "-7.68%",
        "training.learning_rate",
        "0.2",
        f"{312_845 + 265_310 + 268_902:,}",
    ):
        assert fact in html


@pytest.mark.parametrize("count", [1, 12])
def test_many_runs_are_drawn(tmp_path: Path, summary: dict[str, Any], count: int) -> None:
    many = [ComparedRun(f"run {place}", "/x", summary, {}) for place in range(count)]
    write_comparison(tmp_path / "page.html", many)
    html = (tmp_path / "page.html").read_text()
    assert f"run {count - 1}</text>" in html and "<p>None.</p>" in html
