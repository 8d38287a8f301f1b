"""Whole contests for the tests: seven training nodes and five validators over two days, on the tiny model."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from flock_ray.arena_session import run_arena
from flock_ray.cluster.contest_launch import contest_plan
from flock_ray.cluster.run_directory import RunDirectory, load_arena_config
from flock_ray.config import ArenaConfig, ClusterMode, check_arena, register, typed_arena
from flock_ray.telemetry.table import Console
from tests.runs import ROOT, Head, Run
from tests.waiting import PATIENCE


def write_rows(folder: Path) -> tuple[Path, Path]:
    """Questions whose answer goes on counting as they began: what is scored, and what nodes learn from."""
    stream = random.Random(3)

    def row() -> str:
        start, step = stream.randint(2, 60), stream.randint(1, 4)
        numbers = [str(start + step * place) for place in range(stream.randint(6, 12))]
        said = [("user", "count " + " ".join(numbers[:2])), ("assistant", " ".join(numbers[2:]))]
        return json.dumps({"conversations": [{"role": role, "content": content} for role, content in said]}) + "\n"

    scored, learned = folder / "rows.jsonl", folder / "train.jsonl"
    scored.write_text("".join(row() for _ in range(60)))
    learned.write_text("".join(row() for _ in range(80)))
    return scored, learned


def overrides_of(model: Path, data: Path, *overrides: str) -> list[str]:
    """Overrides of `experiment=arena_tiny`; later ones win."""
    scored, learned = write_rows(data)
    return [
        "experiment=arena_tiny", "model=folder", f"model.path={model}", f"contest.data=[{scored}]",
        f"contest.train=[{learned}]", f"cluster.placement_timeout={PATIENCE:g}", *overrides,
    ]  # fmt: skip


def configure(*overrides: str) -> ArenaConfig:
    """What the command line makes of these overrides."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = typed_arena(compose("arena", list(overrides)))
    check_arena(config)
    return config


def play(head: Head, output: Path, config: ArenaConfig, **options: Any) -> Run:
    """A contest on a shared Ray cluster."""
    here = replace(config, cluster=replace(config.cluster, mode=ClusterMode.existing, address=head.address))
    run = RunDirectory.create(output, here)
    summary = run_arena(here, run, contest_plan(here), Console(io.StringIO()), **options)
    return Run(run.path, summary)


def resume(head: Head, path: Path) -> Run:
    """Go on with a contest."""
    config = load_arena_config(path)
    here = replace(config, cluster=replace(config.cluster, mode=ClusterMode.existing, address=head.address))
    summary = run_arena(here, RunDirectory.open(path), contest_plan(here), Console(io.StringIO()))
    return Run(path, summary)


def timeless(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what depends on the clock or on where it ran."""
    facts = {key: value for key, value in summary["run"].items() if key not in ("load_seconds", "placement")}
    days = [{key: value for key, value in day.items() if key != "wall_seconds"} for day in summary["days"]]
    rest = {key: value for key, value in summary.items() if key not in ("run_id", "days", "run")}
    return {**rest, "days": days, "run": facts}
