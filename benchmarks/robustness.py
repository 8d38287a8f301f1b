"""What members who cheat cost a task, and what they earn, under every mechanism: one in-process task a cell.

`python benchmarks/run.py robustness [cells=STAGE,…] [seeds=1,2,3] [minutes=M]` plays what the journal,
`benchmarks/results/robustness.jsonl`, lacks: a cell's row is there as soon as it is played, so that a run that was
stopped goes on where it was. Rows are of one configuration, one base model and one version of the code that decides
about them, whatever its comments say. All that was played, in this run or before, goes into the result. `minutes`
begins no cell after that time: 0 writes the result of what is there.

Stages, the most telling first, are in `robustness_cells.py`. Lost gain is (L - L_clean) / (L_start - L_clean) of the
honest members' mean held-out loss, beside the clean cell of the same mechanism, rule and seed. Leakage is the share of
the gross rewards of a role over the share of its seats that were dishonest. Figures are means over the seeds; one that
is the highest of several attacks is there once all of these were played. Below 0.02 lost gain is noise.
"""

from __future__ import annotations

import ast
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.common import ROOT, environment, result_path, store, tell
from benchmarks.robustness_cells import MECHANISMS, STAGES, attacked, cells_of
from benchmarks.robustness_figures import curves, headline, table
from benchmarks.robustness_rows import Row, row_of
from benchmarks.robustness_world import ODD, QUICK, WHOLE, Cell, World
from flock_ray.in_process import play
from flock_ray.sweeps.identity import point_id

SEEDS = (1, 2, 3)
QUICK_ATTACKS = ("gaussian", "resubmit", "lazy_vote", "backdoor")
TARGETS = {
    "max_lost_gain_at_30pct": 0.05,
    "max_proposer_leakage_at_30pct": 0.1,
    "max_voter_leakage_at_30pct": 0.1,
    "one_step_leakage": 0.25,
    "honest_slash_rate": 0.01,
    "gain_against_marginal1": 1.08,
}
"""At most, but for the gain, which is at least."""
PICTURE = ROOT / "docs" / "robustness.svg"
_DECIDES = (
    "flock_ray/adversary", "flock_ray/aggregation", "flock_ray/cluster", "flock_ray/config", "flock_ray/lora",
    "flock_ray/protocol", "flock_ray/training", "flock_ray/wire_format", "flock_ray/alliance.py",
    "flock_ray/in_process.py", "benchmarks/robustness_rows.py",
)  # fmt: skip
_OF_CONTESTS = ("contest", "arena")


def code_version(root: Path = ROOT) -> str:
    """SHA-256 of what the sources that decide about a row compute: comments, docstrings and layout are not in it."""
    digest = sha256()
    for name in _DECIDES:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            if not file.name.startswith(_OF_CONTESTS):
                digest.update(f"{file.relative_to(root)}\0{_computed(file.read_text())}\0".encode())
    return digest.hexdigest()


def _computed(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [
                one
                for one in node.body
                if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
            ]  # fmt: skip
    return ast.dump(tree)


class Journal:
    """The rows that were played, one JSON line each; a row is whole in the file before the next cell is begun.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, if it is there; of a line that was torn by the end of a run it is told."""
        self.path = path
        self._rows: dict[str, Row] = {}
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), start=1):
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                tell(f"robustness: line {number} of {path} is torn; its cell is played again")
                continue
            self._rows[value["id"]] = Row.of(value["row"])

    def row(self, name: str) -> Row | None:
        """The row of an id, if it was played."""
        return self._rows.get(name)

    def add(self, name: str, cell: Cell, seconds: float, row: Row) -> None:
        """Write a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        line = json.dumps({"id": name, "cell": str(cell), "seconds": round(seconds, 1), "row": row.json()})
        with self.path.open("a") as file:
            file.write("\n" * torn + line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows[name] = row


class Grid:
    """The cells of a world, played or not.

    Attributes:
        rows: {cell: row} of what was played.
    """

    def __init__(self, world: World, journal: Journal) -> None:
        """Of one world and what was played in it."""
        self._world, self._journal = world, journal
        self._version = f"{code_version()}, world {world.digest}"
        self.rows: dict[Cell, Row] = {}

    def id_of(self, cell: Cell) -> str:
        """SHA-256 of the cell's configuration, its world and the code, 64 hex digits."""
        name = f"robustness, {ODD}" if cell.attack == ODD else "robustness"
        return point_id(name, self._world.config(cell), self._version)

    def known(self, cell: Cell) -> bool:
        """Whether a cell was played; its row is then among `rows`."""
        if cell not in self.rows and (row := self._journal.row(self.id_of(cell))):
            self.rows[cell] = row
        return cell in self.rows

    def play(self, cell: Cell) -> float:
        """Play a cell; the seconds that it took."""
        began, config = time.perf_counter(), self._world.config(cell)
        row = row_of(cell, config, play(config))
        seconds = time.perf_counter() - began
        self._journal.add(self.id_of(cell), cell, seconds, row)
        self.rows[cell] = row
        return seconds


def options(overrides: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...], float]:
    """Stages, seeds and minutes; ends the process at anything else."""
    stages: tuple[str, ...] = STAGES
    seeds: tuple[int, ...] = SEEDS
    minutes = float("inf")
    for override in overrides:
        name, _, value = override.partition("=")
        if name == "cells" and set(value.split(",")) <= set(STAGES):
            stages = tuple(stage for stage in STAGES if stage in value.split(","))
        elif name == "seeds" and all(one.isdecimal() for one in value.split(",")):
            seeds = tuple(map(int, value.split(",")))
        elif name == "minutes" and value.isdecimal():
            minutes = float(value)
        else:
            raise SystemExit(
                f"error: robustness knows no {override!r}; it takes cells= of {', '.join(STAGES)}, seeds= as in 1,2,3"
                " and minutes="
            )
    return stages, seeds, minutes


def quick_cells() -> Iterator[Cell]:
    """A few of every kind."""
    for mechanism in MECHANISMS:
        yield from attacked(mechanism, "mean", QUICK_ATTACKS if mechanism == "marginal" else QUICK_ATTACKS[:1], (1,))
    yield from attacked("open", "multi_krum", QUICK_ATTACKS[:1], (1,))
    yield Cell("marginal", "mean", ODD, 0.0, 1)


def play_all(grid: Grid, stages: Iterable[tuple[str, Iterable[Cell]]], minutes: float) -> None:
    """Play what is missing, stage by stage.

    Args:
        grid: knows what was played.
        stages: names and cells; those of one are asked for when the stages before it have been played.
        minutes: after which no cell is begun.
    """
    until = time.monotonic() + 60 * minutes
    for stage, cells in stages:
        left = [cell for cell in dict.fromkeys(cells) if not grid.known(cell)]
        tell(f"robustness, {stage}: {len(left)} cells to play")
        for number, cell in enumerate(left, start=1):
            if time.monotonic() >= until:
                tell(f"robustness: {minutes:g} minutes are over")
                return
            seconds = grid.play(cell)
            tell(f"{stage}, {number} of {len(left)}: {cell}: {_said(grid, cell)}; {seconds:.0f} s")


def _said(grid: Grid, cell: Cell) -> str:
    """The first figures of a cell."""
    row = grid.rows[cell]
    leaks = [f"{name} leak {role.leakage:.2f}" for name, role in (("proposers", row.proposers), ("voters", row.voters))
             if role.leakage is not None]  # fmt: skip
    gain = (
        f"lost gain {row.lost_gain(grid.rows[cell.clean]):.3f}"
        if cell.share
        else f"gain {row.gain(row.honest_members):.3f}"
    )
    return ", ".join([gain, *leaks])


def result_of(grid: Grid) -> dict[str, Any]:
    """The result file of what was played."""
    missing = sum(not grid.known(cell) for stage in STAGES for cell in set(cells_of(stage, SEEDS, grid.rows)))
    figures, behind = headline(grid.rows)
    return {
        "headline": figures,
        "behind": behind,
        "targets": TARGETS,
        "cells_played": len(grid.rows),
        "cells_missing": missing,
        "attacks": table(grid.rows),
        "curves": curves(grid.rows),
        "environment": environment(),
    }


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Lost gain over the share of the members that cheat: an attack a colour, `open` dashed."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flock_ray", "font.size": 9}):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.subplots()
        colours = {attack: f"C{index}" for index, attack in enumerate(dict.fromkeys(one["attack"] for one in lines))}
        for one in lines:
            share, mean, low, high = zip(*one["lost_gain"], strict=True)
            ours = one["mechanism"] == "marginal"
            axes.plot(
                [100 * value for value in share], mean, color=colours[one["attack"]],
                linestyle="solid" if ours else "dashed", marker="o", markersize=3,
                label=one["attack"] if ours else None,
            )  # fmt: skip
            axes.fill_between([100 * value for value in share], low, high, color=colours[one["attack"]], alpha=0.12)
        axes.set(xlabel="members that cheat, %", ylabel="lost gain (solid: marginal, dashed: open)", ylim=(-0.2, 1.5))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Play what is missing, and store what all of it came to, also when it is interrupted."""
    stages, seeds, minutes = options(overrides)
    world = World(QUICK if quick else WHOLE)
    grid = Grid(world, Journal(result_path("robustness", quick).with_suffix(".jsonl")))
    for stage in STAGES:  # what was played before counts whatever this run is asked for
        for cell in cells_of(stage, sorted({*SEEDS, *seeds}), grid.rows):
            grid.known(cell)
    asked = [("quick", quick_cells())] if quick else [(stage, cells_of(stage, seeds, grid.rows)) for stage in stages]
    try:
        play_all(grid, asked, minutes)
    finally:
        result = result_of(grid)
        if result["curves"] and not quick:
            draw(result["curves"], PICTURE)
        store("robustness", result, quick)
