"""`flock-ray sweep`: many runs over the values of some settings, a few at a time, and what they came to."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any

from flock_ray.cluster.placement import Plan, available_cpus, in_ray_job, make_plan
from flock_ray.commands.output import Output
from flock_ray.commands.playing import check_local_fit
from flock_ray.commands.settings import SWEEP, SweepSettings, read_settings
from flock_ray.commands.sweep_points import JOBS, read_points, why_one_at_a_time
from flock_ray.config import ArenaConfig, ClusterMode, Config, settled_as
from flock_ray.errors import ConfigError, PlacementError, SweepError
from flock_ray.sweeps.identity import code_version
from flock_ray.sweeps.point import Point, PointFolder, State
from flock_ray.sweeps.processes import ProcessRunner, only_sweep, shares, visible_gpus
from flock_ray.sweeps.results import Results
from flock_ray.sweeps.window import Runner, Window
from flock_ray.telemetry import text
from flock_ray.telemetry.swept import as_json, columns, grouped, table
from flock_ray.telemetry.table import Console

_SHOWN = 64
"""Rows of a table on the terminal; all of them are in the results."""


@dataclass(frozen=True)
class _Place:
    """Where points run, and how many at a time."""

    runner: Runner
    window: int


def alliance(asked: Namespace) -> None:
    """Sweep over runs of `flock-ray alliance`."""
    _sweep("alliance", asked)


def arena(asked: Namespace) -> None:
    """Sweep over runs of `flock-ray arena`."""
    _sweep("arena", asked)


def _sweep(job: str, asked: Namespace) -> None:
    console = Console(sys.stderr if asked.json else sys.stdout)
    settings = read_settings(SweepSettings, [word for word in asked.overrides if word.startswith(SWEEP)], SWEEP)
    code = code_version()
    words = [word for word in asked.overrides if not word.startswith(SWEEP)]
    grid, points = read_points(JOBS[job], words, code, console.line)
    root = _root(settings)
    folders = [PointFolder(root / "points", point) for point in points]
    results = Results(root, job, code, grid, folders)
    address = settings.address or ("auto" if in_ray_job() else "")
    place = _cluster(points, settings.window, address) if address else _this_machine(points, settings.window, console)
    console.line(f"{job}: {_counted(folders)}; {place.window} at a time")
    console.line(f"Code: {code}")
    if asked.dry_run or grid.plan_only:
        return _show_plan(asked.json, console, results, folders, place.window, code)
    with nullcontext() if address else only_sweep(root):
        _play(settings, place, results, folders, code, console)
    _show(asked.json, console, results)
    _raise_failures(folders, results)


def _root(settings: SweepSettings) -> Path:
    """`sweep.folder`, absolute."""
    usual = Path.home() / "flock_ray_sweeps" if in_ray_job() else Path("outputs/sweeps")
    return (usual if settings.folder == Path() else settings.folder).resolve()


def _plan(config: Config | ArenaConfig) -> Plan:
    return make_plan(settled_as(config) if isinstance(config, ArenaConfig) else config)


def _window(points: Sequence[Point], asked: int, room: int) -> int:
    """How many points run at a time: as asked, or as many as there is room for; one if they get in each other's way.

    Raises:
        ConfigError: more are asked for than may run at a time.
    """
    once = why_one_at_a_time(points)
    if once and asked > 1:
        raise ConfigError(f"sweep.window is {asked}, and there is only one of {once}; take sweep.window=1")
    return 1 if once else min(asked or max(room, 1), len(points))


def _this_machine(points: Sequence[Point], asked: int, console: Console) -> _Place:
    """Processes of this machine.

    Raises:
        PlacementError: not even one point fits, or GPUs are too few for the window.
    """
    here = [point.config for point in points if point.config.cluster.mode is ClusterMode.local]
    plans = [_plan(config) for config in here]  # others only lead a run that a cluster plays
    for config, plan in zip(here, plans, strict=True):
        check_local_fit(plan, config.cluster)
    cpus = max((plan.cpus * plan.workers * len(plan.nodes) for plan in plans), default=1)
    gpus = max((plan.gpus * plan.workers * len(plan.nodes) for plan in plans), default=0)
    devices = visible_gpus() if gpus else ()
    room = min([available_cpus() // cpus, *([len(devices) // gpus] if gpus else [])]) if here else 1
    window = _window(points, asked, room)
    if window * gpus > len(devices):
        raise PlacementError(
            f"{window} point(s) at a time of {gpus} GPU each do not fit: this machine has {len(devices)}; lower"
            " sweep.window or cluster.nodes"
        )
    if window * cpus > available_cpus():
        console.line(
            f"note: {window} points of {cpus} CPU each share {available_cpus()} cores, and slow each other down"
        )
    return _Place(ProcessRunner(shares(window, cpus, gpus, devices)), window)


def _cluster(points: Sequence[Point], asked: int, address: str) -> _Place:
    """Jobs of a Ray cluster."""
    from flock_ray.cluster.point_jobs import JobRunner  # imports Ray

    runner = JobRunner(address)
    machines = runner.machines()
    room = min(plan.room(machines) // len(plan.nodes) for plan in (_plan(point.config) for point in points))
    return _Place(runner, _window(points, asked, room))


def _counted(folders: Sequence[PointFolder]) -> str:
    """How many points there are, and how far they are."""
    counts = Counter(folder.state for folder in folders)
    found = ", ".join(f"{counts[state]} {state.value}" for state in reversed(State) if counts[state])
    return f"{len(folders)} point{'s' * (len(folders) > 1)}: {found}"


def _play(
    settings: SweepSettings,
    place: _Place,
    results: Results,
    folders: Sequence[PointFolder],
    code: str,
    console: Console,
) -> None:
    """Play what is left to be played: what has begun first, what has failed only on request."""
    results.begin()
    console.line(f"Results: {results.path}")
    states = {folder.name: folder.state for folder in folders}
    wanted = [State.begun, State.new, *([State.failed] if settings.retry == "true" else [])]
    left = [folder for state in wanted for folder in folders if states[folder.name] is state]
    for folder in left:
        folder.create(code)
    window = Window(
        place.runner,
        place.window,
        console.line,
        results.add,
        fail_fast=settings.fail_fast == "true",
        largest=_largest(folders),
        unchanged=lambda: code_version() == code,
    )
    window.play(left)


def _largest(folders: Sequence[PointFolder]) -> int:
    """Bytes of the largest point that is whole."""
    return max((one.outcome.bytes for one in folders if one.outcome and one.state is State.whole), default=0)


def _show_plan(
    as_json_object: bool, console: Console, results: Results, folders: Sequence[PointFolder], window: int, code: str
) -> None:
    """What a sweep would do."""
    states = {folder.name: folder.state.value for folder in folders}
    if as_json_object:
        points: list[dict[str, Any]] = [
            {"point": one.name, "state": states[one.name], "settings": dict(one.point.settings)} for one in folders
        ]
        Output(True).facts(
            {"dry_run": True, "code": code, "window": window, "results": str(results.path), "points": points}
        )
        return
    axes = list(folders[0].point.settings)
    rows = [
        [one.name[:8], *map(text.setting, one.point.settings.values()), states[one.name]] for one in folders[:_SHOWN]
    ]
    console.rows("points", ["point", *axes, "state"], rows)
    if len(folders) > _SHOWN:
        console.line(f"and {len(folders) - _SHOWN} more")
    if largest := _largest(folders):
        left = sum(state != State.whole.value for state in states.values())
        free = disk_usage(next(folder for folder in results.path.parents if folder.exists())).free
        console.line(f"Disk: about {largest * left / 1e6:,.0f} MB for what is left, {free / 1e6:,.0f} MB are free")
    console.line(f"Nothing is started; results would go to {results.path}")


def _show(as_json_object: bool, console: Console, results: Results) -> None:
    """The table of all settings, and where the results are."""
    groups = grouped(results.runs)
    if as_json_object:
        facts = {"results": str(results.path), "points": results.rows(), "table": as_json(groups)}
        Output(True).facts(facts)
        return
    titles, rows = table(groups, columns(results.runs))
    if rows:
        seeds = any(len(group.runs) > 1 for group in groups)
        console.rows("mean ± standard error over seeds" if seeds else "results", titles, rows[:_SHOWN])
    if len(rows) > _SHOWN:
        console.line(f"and {len(rows) - _SHOWN} more")
    console.line(f"Results: {results.path / 'results.jsonl'} and .csv")
    console.line(f"Page: {results.path / 'index.html'}")


def _raise_failures(folders: Sequence[PointFolder], results: Results) -> None:
    """Say which points are not whole, unless all are.

    Raises:
        SweepError: some are not.
    """
    failed = [run for run in results.runs if not run.whole]
    left = len(folders) - len(results.runs)
    if failed:
        codes = ", ".join(
            f"{code} ({count})" for code, count in sorted(Counter(run.exit_code for run in failed).items())
        )
        others = f", and {left} were not played to their end" if left else ""
        raise SweepError(
            f"{len(failed)} of {len(folders)} points failed, with exit codes (points) {codes}{others};"
            " sweep.retry=true plays them once more"
        )
    if left:
        raise SweepError(
            f"{left} of {len(folders)} points did not come to their end; the same command goes on with them"
        )
