"""One place says which statuses prove a cheat, and table, chart and report paint by it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.telemetry import charts
from flock_ray.telemetry.report import write_report
from flock_ray.telemetry.table import Console
from flock_ray.telemetry.views import EpochView, MemberTotal

CHEATS = ("harmful", "malformed", "copied", "equivocated")
NEUTRAL = ("rejected", "missing", "unseen", "refused", "sat out")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def of_status(view: EpochView, status: str) -> EpochView:
    return replace(view, members=(replace(view.members[0], score=5, status=status),))


@pytest.mark.parametrize("status", [*CHEATS, *NEUTRAL, "accepted"])
def test_what_proves_nothing_is_not_painted_as_a_cheat(
    epochs: list[EpochView], members: list[MemberTotal], summary: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, status: str,
) -> None:  # fmt: skip
    view = of_status(epochs[0], status)
    assert view.members[0].cheated == (status in CHEATS)
    monkeypatch.setenv("TERM", "xterm-256color")
    file = Terminal()
    Console(file).epoch(view, 1)
    (row,) = [line for line in file.getvalue().splitlines() if status in line and "asyncio" in line]
    assert ("\x1b[1;31m" + status in row) == (status in CHEATS)
    assert ("\x1b[32m" + status in row) == (status == "accepted")
    assert ("var(--bad)" in charts.score_chart([view])) == (status in CHEATS)
    write_report(tmp_path / "report.html", summary, [view], members[:1])
    colour = "bad" if status in CHEATS else "good" if status == "accepted" else "muted"
    assert f'class="text {colour}">{status}<' in (tmp_path / "report.html").read_text()
