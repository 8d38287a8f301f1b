"""`flock-ray alliance`: an FL Alliance from configuration to report.

`--help` lists the groups, `--cfg job` the configuration; `plan_only=true` shows the placement and looks whether the run
will work, as `flock-ray check` does; `resume=RUN_DIR` continues.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from flock_ray.cluster.data_plan import show_data
from flock_ray.cluster.finding import Finding
from flock_ray.cluster.placement import Plan, in_ray_job, make_plan
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.commands.composed import play_each
from flock_ray.commands.playing import check_local_fit, is_whole, run_folder
from flock_ray.commands.resumed import open_run
from flock_ray.config import ClusterMode, Config, describe_risk, problems, register, typed
from flock_ray.telemetry.table import Console


def output_root(config: Config) -> Path:
    """Where run folders go: as configured, else ./outputs, or in the home folder when this is a Ray job."""
    if config.output_dir:
        return Path(config.output_dir).expanduser().resolve()
    return Path.home() / "flock_ray_outputs" if in_ray_job() else Path.cwd() / "outputs"


def on_own_cluster(config: Config) -> Config:
    """The configuration of a Ray job: it runs on the cluster that it was submitted to."""
    return replace(config, cluster=replace(config.cluster, mode=ClusterMode.existing)) if in_ray_job() else config


def show_plan(plan: Plan, config: Config, console: Console) -> None:
    """The placement and the committee's odds, before anything starts."""
    console.plan(plan.describe())
    console.line(describe_risk(config))
    show_data(config, console)
    check_local_fit(plan, config.cluster)


def tell(findings: Iterable[Finding], console: Console) -> None:
    """Print a line for each thing that was looked at.

    Raises:
        FlockRayError: something is wrong; of the first such thing.
    """
    told = []
    for finding in findings:
        console.line(finding.line())
        told.append(finding)
    wrong = [(finding.what, finding.error) for finding in told if finding.error]
    for what, error in wrong[:1]:
        others = f"{len(wrong)} of {len(told)} things are wrong, {what} first: " if len(wrong) > 1 else ""
        raise type(error)(f"{others}{error}")


def play(config: Config, named: Mapping[str, bool]) -> None:
    """Plan, run and print where the results are; `named` are the keys that the command line sets, see `open_run`."""
    console = Console()
    wrong = [] if config.resume else problems(config)
    if wrong and config.plan_only:
        tell([Finding("configuration", "", error) for error in wrong], console)
    for error in wrong:
        raise error
    config, run = open_run(config, named) if config.resume else (config, None)
    config = on_own_cluster(config)
    plan = make_plan(config)
    if config.plan_only:
        from flock_ray.cluster.checkup import checkup  # imports torch and Ray, as those below do

        console.plan(plan.describe())
        return tell(checkup(config, plan, run.path if run else output_root(config)), console)
    show_plan(plan, config, console)
    if is_whole(run, config.store, console):
        return
    # These import torch and Ray, so only after the configuration was checked.
    from flock_ray.cluster.preflight import check_before_start
    from flock_ray.session import run_alliance

    check_before_start(config)
    with run_folder(run, lambda: RunDirectory.create(output_root(config), config), console) as folder:
        summary = run_alliance(config, folder, plan, console)
    console.line(f"Final adapter {summary['final_adapter_hash']} in {folder.adapter}")
    console.line(f"Report: {folder.report}")
    console.line(f"Run folder: {folder.path}")


def compose_and_play(command: str, overrides: Sequence[str], plan_only: bool = False) -> int:
    """Play what the overrides configure; returns the exit code.

    Args:
        command: what the user called.
        overrides: its command line.
        plan_only: start nothing, whatever the overrides say.
    """

    def play_one(composed: DictConfig, named: Mapping[str, bool]) -> None:
        config = typed(composed)
        play(replace(config, plan_only=plan_only or config.plan_only), named)

    register()
    return play_each(command, "config", overrides, Config, play_one)


def run(overrides: Sequence[str]) -> int:
    """Train what the overrides configure; returns the exit code."""
    return compose_and_play("flock-ray alliance", overrides)
