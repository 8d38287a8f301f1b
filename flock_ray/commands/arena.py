"""`flock-ray arena`: a contest of adapters from configuration to summary.

`--help` lists the groups, `--cfg job` the configuration; `plan_only=true` shows the placement and looks whether the run
will work; `resume=RUN_DIR` continues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flock_ray.cluster.finding import Finding
from flock_ray.cluster.placement import Plan, available_cpus, in_ray_job
from flock_ray.cluster.pruning import prune
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.commands.alliance import output_root, tell
from flock_ray.commands.composed import play_each
from flock_ray.commands.guard import lead
from flock_ray.commands.outcome import explained
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
    _check_fit(plan, config)
    if run and run.whole:
        prune(run, config.store, console.line)  # as far as an interrupted one did not
        console.line(f"The run in {run.path} is complete already; nothing to do.")
        return
    check_before_contest(config)
    if run:
        console.line(f"Run folder: {run.path}")
    run = run or RunDirectory.create(output_root(settled_as(config)), config)
    if run.started or not config.resume:
        lead(run.path, run.made)
    try:
        summary = run_arena(config, run, plan, console)
    except KeyboardInterrupt:
        console.close()
        if run.started:
            console.line(f"Interrupted; go on with: resume={run.path}")
        raise
    except Exception as error:
        console.close()
        told = explained(error, run.path if run.started else None)
        if told is error:
            raise
        raise told from error
    finally:
        if not (run.started or config.resume):
            run.discard()
    console.line(f"Leader {summary['final_adapter_hash']} in {run.adapter}")
    console.line(f"Run folder: {run.path}")


def _check_fit(plan: Plan, config: ArenaConfig) -> None:
    if config.cluster.mode is ClusterMode.local:
        plan.check_fit([{"CPU": float(available_cpus()), "GPU": float(config.cluster.gpus_per_worker and 99)}])


def run(overrides: Sequence[str]) -> int:
    """Hold the contest that the overrides configure; returns the exit code."""
    register()
    return play_each(
        "flock-ray arena", "arena", overrides, ArenaConfig, lambda composed, named: play(typed_arena(composed), named)
    )
