"""The runs of a sweep side by side: a row for each, means over seeds, and one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flock_ray.store.files import write_text
from flock_ray.telemetry import text
from flock_ray.telemetry.charts import MAX_COLOURED, runs_chart
from flock_ray.telemetry.comparison import ComparedRun, figures

SEED = "seed"
"""The axis over whose values means are taken."""

_MICRO = 1e6
_ALLIANCE = (
    "loss_before", "loss_after", "bits_per_byte_after", "epochs_accepted", "honest_members_with_more",
    "adversaries_share", "seconds",
)  # fmt: skip
_CONTEST = ("leader_score", "leader_final_score", "audits_failed", "adversaries_share", "slashed_wei", "seconds")


@dataclass(frozen=True)
class SweptRun:
    """A point of a sweep that has ended.

    Attributes:
        point: its id.
        settings: {axis: value}.
        exit_code: of its last attempt; 0 where it is whole.
        error: the line that it failed with; empty where it is whole.
        attempts: how many there were.
        wall_seconds: of all attempts, with starting Ray and loading the model.
        figures: see `run_figures`; empty where it failed.
        losses: mean held-out loss of the honest silos before the first epoch and after each; empty for a contest.
        run: folder of the run, from the folder of the page; empty if there is none.
        log: what it printed, from the folder of the page.
    """

    point: str
    settings: Mapping[str, Any]
    exit_code: int
    error: str
    attempts: int
    wall_seconds: float
    figures: Mapping[str, Any]
    losses: Sequence[float | None]
    run: str
    log: str

    @property
    def whole(self) -> bool:
        """Whether it has figures."""
        return bool(self.figures)

    @property
    def page(self) -> str:
        """The run's own page, from the folder of the sweep's page."""
        return f"{self.run}/{'leaderboard.html' if self.of_contest else 'report.html'}"

    @property
    def of_contest(self) -> bool:
        """Whether its figures are those of a contest."""
        return "leader_score" in self.figures


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
        settings: {axis: value}, without the seed.
        runs: those that are whole.
        num_failed: how many are not.
    """

    settings: Mapping[str, Any]
    runs: tuple[SweptRun, ...]
    num_failed: int

    @property
    def label(self) -> str:
        """The settings, for people."""
        return text.settings(self.settings) or "all runs"


def run_figures(summary: Mapping[str, Any]) -> tuple[dict[str, Any], list[float | None]]:
    """Figures and mean losses of a run, from its `summary.json`.

    Returns:
        Of an alliance those of `flock-ray compare`, of a contest the leader's scores (nats a token or bits a byte) and
        the audits that failed. Of both `adversaries_share`: what members that cheat earned, of all that was earned;
        None where nobody earned anything. A contest has no losses.
    """
    members = summary["members"]
    if summary.get("kind") == "contest":
        return _contest_figures(summary) | {"adversaries_share": _share(members, "earned")}, []
    run = ComparedRun("", "", summary, {})
    return figures(run) | {"adversaries_share": _share(members, "earned_wei")}, run.losses


def _share(members: Sequence[Mapping[str, Any]], earned: str) -> float | None:
    total = sum(member[earned] for member in members)
    return sum(member[earned] for member in members if member["adversary"]) / total if total else None


def _contest_figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    days = summary["days"]
    last = days[-1]["submissions"] if days else []
    gas = [day["gas_used"] for day in days if day["gas_used"] is not None]

    def best(rank: str, score: str) -> float | None:
        scores = [one[score] for one in last if one[rank] == 1 and one[score] is not None]
        return scores[0] / _MICRO if scores else None

    return {
        "model": summary["model"],
        "members": len(summary["members"]),
        "days": len(days),
        "leader_score": best("rank", "score"),
        "leader_final_score": best("final_rank", "final_score"),
        "audits_failed": sum(one["failed"] for day in days for one in day["validators"]),
        "slashed_wei": sum(member["slashed"] for member in summary["members"]),
        "gas_of_settlements": sum(gas) if gas else None,
        "seconds": sum(sum(day["wall_seconds"].values()) for day in days),
        "final_adapter_hash": summary["final_adapter_hash"],
    }


def grouped(runs: Sequence[SweptRun]) -> list[Group]:
    """The groups, in the order in which their first runs come."""
    groups: dict[str, list[SweptRun]] = {}
    for run in runs:
        key = text.settings({name: value for name, value in run.settings.items() if name != SEED})
        groups.setdefault(key, []).append(run)
    return [
        Group(
            {name: value for name, value in group[0].settings.items() if name != SEED},
            tuple(run for run in group if run.whole),
            sum(not run.whole for run in group),
        )
        for group in groups.values()
    ]


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and its standard error: the sample's standard deviation over √n; None for one value."""
    return fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def columns(runs: Sequence[SweptRun]) -> tuple[str, ...]:
    """The figures that tables show."""
    return _CONTEST if any(run.of_contest for run in runs) else _ALLIANCE


def table(groups: Sequence[Group], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: settings, how many runs, and figures as mean ± standard error.

    Args:
        groups: a row each.
        names: of the figures.
    """
    axes = list(groups[0].settings) if groups else []
    failures = any(group.num_failed for group in groups)
    titles = [*axes, "runs", *(["failed"] if failures else []), *map(_title, names)]
    rows = [
        [
            *(text.printable(text.setting(value)) for value in group.settings.values()),
            str(len(group.runs)),
            *([str(group.num_failed)] if failures else []),
            *(shown_mean(name, [run.figures[name] for run in group.runs]) for name in names),
        ]
        for group in groups
    ]
    return titles, rows


def shown_mean(name: str, values: Sequence[float | None]) -> str:
    """A figure of several runs, for people; `-` where none has it."""
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    mean, error = mean_and_error(there)
    if name.endswith("_wei"):
        return text.tokens(round(mean)) + (f" ± {text.tokens(round(error))}" if error is not None else "")
    if name.endswith("_share"):
        return f"{mean:.1%}" + (f" ± {error:.1%}" if error is not None else "")
    counted = all(isinstance(value, int) for value in there)
    places = (0 if error in (None, 0) else 2) if counted else 1 if name == "seconds" else 4
    return f"{mean:.{places}f}" + (f" ± {error:.{places}f}" if error is not None else "")


def _title(name: str) -> str:
    return name.removesuffix("_wei").replace("_", " ")


def as_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The table for programs: of each numeric figure mean, standard error and the number of runs that have it."""
    return [
        {"settings": dict(group.settings), "runs": len(group.runs), "failed": group.num_failed,
         "figures": {name: _moments(group, name) for name in _numeric(group)}}
        for group in groups
    ]  # fmt: skip


def _numeric(group: Group) -> list[str]:
    first = group.runs[0].figures if group.runs else {}
    return [name for name in first if not any(isinstance(run.figures[name], str) for run in group.runs)]


def _moments(group: Group, name: str) -> dict[str, float | int | None]:
    values = [run.figures[name] for run in group.runs if run.figures[name] is not None]
    mean, error = mean_and_error(values) if values else (None, None)
    return {"mean": mean, "standard_error": error, "runs": len(values)}


def write_page(path: Path, title: str, facts: Mapping[str, str], runs: Sequence[SweptRun]) -> None:
    """Write the page; it needs nothing beside it, and links to the runs' own pages.

    Args:
        path: of the file.
        title: what was swept.
        facts: {what: how it is}, about the sweep.
        runs: that have ended, in the order of the grid.
    """
    groups, names = grouped(runs), columns(runs)
    titles, rows = table(groups, names)
    drawn = [group for group in groups if any(run.losses for run in group.runs)]
    environment = Environment(
        loader=PackageLoader("flock_ray.telemetry"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("sweep.html.jinja").render(
        title=title,
        facts=facts,
        titles=titles,
        rows=rows,
        num_axes=len(groups[0].settings) if groups else 0,
        seeds=any(len(group.runs) > 1 for group in groups),
        axes=list(runs[0].settings) if runs else [],
        names=[_title(name) for name in names],
        runs=[(run, [shown_mean(name, [run.figures.get(name)]) for name in names]) for run in runs],
        num_drawn=min(len(drawn), MAX_COLOURED),
        num_groups=len(drawn),
        drawing=runs_chart({group.label: _mean_losses(group) for group in drawn[:MAX_COLOURED]}) if drawn else "",
        setting=text.setting,
    )
    write_text(path, page)


def _mean_losses(group: Group) -> list[float | None]:
    """Mean over the runs, as far as all of them go."""
    return [
        fmean(there) if len(there := [loss for loss in at if loss is not None]) == len(at) else None
        for at in zip(*(run.losses for run in group.runs), strict=False)
    ]
