"""What the pages tell of runs: their summaries, and the pages that the runs themselves left.

A run's folder is another's: files are read as `verify.folder` reads them, and values are shown only as what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flock_ray.errors import FlockRayError
from flock_ray.market.models import Model
from flock_ray.market.page_views import unit
from flock_ray.market.snapshot import Snapshot
from flock_ray.protocol.encoding import to_hex
from flock_ray.telemetry.text import printable
from flock_ray.verify.folder import RunFolder

PAGES = ("report", "leaderboard")
MAX_PAGE = 1 << 25
_MOST = 10  # of a leaderboard
_LONGEST = 80
Standings = tuple[tuple[int, str, str, int | None], ...]


@dataclass(frozen=True)
class RunView:
    """A run that models came from.

    Attributes:
        task: id of its task.
        title: kind and epochs, in words.
        facts: (name, value).
        models: ids of those that came from it.
        page: name of the page that it left; empty for none.
        day: of a contest's leaderboard.
        standings: (rank, node, score, wei that it earned) of a contest's first ones.
    """

    task: str
    title: str
    facts: tuple[tuple[str, str], ...]
    models: tuple[str, ...]
    page: str = ""
    day: int = 0
    standings: Standings = ()


def run_views(snapshot: Snapshot, runs: Sequence[Path]) -> list[RunView]:
    """Every run that a served model came from, contests first."""
    folders = dict(_folders(runs))
    by_task: dict[bytes, list[Model]] = {}
    for model in snapshot.models:
        by_task.setdefault(model.lineage.task, []).append(model)
    views = [_view(models, folders.get(to_hex(task))) for task, models in by_task.items()]
    return sorted(views, key=lambda view: (not view.standings, view.task))


def run_page(runs: Sequence[Path], task: str, page: str) -> str | None:
    """The page that a run left; None where there is none."""
    folder = dict(_folders(runs)).get(task)
    if page not in PAGES or folder is None or not folder.has(f"{page}.html"):
        return None
    try:
        return folder.read(f"{page}.html", MAX_PAGE).decode(errors="replace")
    except FlockRayError:
        return None


def _folders(runs: Sequence[Path]) -> Iterator[tuple[str, RunFolder]]:
    for run in runs:
        try:
            folder = RunFolder(run)
            yield str(folder.json("task.json").get("task")), folder
        except FlockRayError:  # removed since, or damaged
            continue


def _view(models: Sequence[Model], folder: RunFolder | None) -> RunView:
    lineage = models[0].lineage
    epochs = sorted({model.lineage.epoch for model in models})
    facts = [(f"{unit(lineage)}s served", ", ".join(map(str, epochs)))]
    if lineage.chain_id:
        facts.append(("chain", str(lineage.chain_id)))
    page, day = "", 0
    standings: Standings = ()
    if folder is not None:
        page = next((name for name in PAGES if folder.has(f"{name}.html")), "")
        facts += _summary(_object(folder, "summary.json"))
        day, standings = _standings(_object(folder, "leaderboard.json"))
    return RunView(
        to_hex(lineage.task), f"{lineage.kind.capitalize()} 0x{lineage.task.hex()[:8]}", tuple(facts),
        tuple(model.id for model in models), page, day, standings,
    )  # fmt: skip


def _object(folder: RunFolder, name: str) -> Mapping[str, Any]:
    """A JSON file of a run; empty where it has none, or a damaged one."""
    try:
        return folder.json(name) if folder.has(name) else {}
    except FlockRayError:
        return {}


def _summary(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = []
    for name, label in (("model", "base model"), ("num_members", "members")):
        if isinstance(value.get(name), str | int):
            told.append((label, printable(str(value[name]))[:_LONGEST]))
    return told


def _standings(value: Mapping[str, Any]) -> tuple[int, Standings]:
    days = value.get("days")
    last = days[-1] if isinstance(days, list) and days else {}
    rows = last.get("standings") if isinstance(last, dict) else None
    found: list[tuple[int, str, str, int | None]] = []
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and isinstance(row.get("rank"), int) and len(found) < _MOST:
            score, earned = row.get("score"), row.get("earned")
            found.append((
                row["rank"], printable(str(row.get("name", "")))[:_LONGEST],
                f"{score / 1e6:.4f}" if isinstance(score, int) else "-",
                earned if isinstance(earned, int) else None,
            ))  # fmt: skip
    day = last.get("day") if isinstance(last, dict) else None
    return (day if isinstance(day, int) else 0), tuple(found)
