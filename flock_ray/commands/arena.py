"""`flock-ray arena`: a contest of adapters from configuration to summary.

`--help` lists the groups, `--cfg job` the configuration; `plan_only=true` shows the placement and looks whether the run
will work; `resume=RUN_DIR` continues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flock_ray.cluster.finding import Finding
from flock_ray.cluster.placement import in_ray_job
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.commands.alliance import output_root, tell
from flock_ray.commands.composed import play_each
from flock_ray.commands.playing import check_local_fit, is_whole, run_folder
from flock_ray.commands.resumed import open_arena
from flock_ray.config import (
    ArenaConfig,
    ClusterMode,
    arena_problems,
    describe_risk,
    register,
    settled_as,
    typed_arena,
)
from flock_ray.telemetry.table import Console


def play(config: ArenaConfig, named: Mapping[str, bool]) -> None:
    """Plan, run and print where the results are; `named` are the keys that the command line sets, see `open_run`."""
    console = Console()
    wrong = [] if config.resume else arena_problems(config)
    if wrong and config.plan_only:
        tell([Finding("configuration", "", error) for error in wrong], console)
    for error in wrong:
        raise error
    config, run = open_arena(config, named) if config.resume else (config, None)
    if in_ray_job():
        config = replace(config, cluster=replace(config.cluster, mode=ClusterMode.existing))
    # These import torch and Ray, so only after the configuration was checked.
    from flock_ray.arena_session import run_arena
    from flock_ray.cluster.contest_checkup import check_before_contest, contest_checkup
    from flock_ray.cluster.contest_launch import contest_plan

    plan = contest_plan(config)
    console.plan(plan.describe())
    if config.plan_only:
        return tell(contest_checkup(config, plan, run.path if run else output_root(settled_as(config))), console)
    console.line(describe_risk(settled_as(config)))
    check_local_fit(plan, config.cluster)
    if is_whole(run, config.store, console):
        return
    check_before_contest(config)
    with run_folder(run, lambda: RunDirectory.create(output_root(settled_as(config)), config), console) as folder:
        summary = run_arena(config, folder, plan, console)
    console.line(f"Leader {summary['final_adapter_hash']} in {folder.adapter}")
    console.line(f"Run folder: {folder.path}")


def run(overrides: Sequence[str]) -> int:
    """Hold the contest that the overrides configure; returns the exit code."""
    register()
    return play_each(
        "flock-ray arena", "arena", overrides, ArenaConfig, lambda composed, named: play(typed_arena(composed), named)
    )
