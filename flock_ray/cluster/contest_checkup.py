"""What can be known of whether a contest will work, before it costs anything."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from flock_ray.adversary.contest import get_contest_behaviour
from flock_ray.cluster.chain_look import look_at_chain
from flock_ray.cluster.contest_bench import ContestBench
from flock_ray.cluster.contest_launch import contest_specs, submission_folders, terms_of
from flock_ray.cluster.finding import Finding, look
from flock_ray.cluster.launch import uses_rpc
from flock_ray.cluster.placement import Plan, available_cpus
from flock_ray.cluster.preflight import check_embedded_chain
from flock_ray.cluster.progress import Progress
from flock_ray.config import ArenaConfig, ClusterMode, describe_risk, named_behaviours, settled_as
from flock_ray.store.failures import run_folder_errors
from flock_ray.training.device import num_gpus
from flock_ray.training.sql_metric import NUM_DATABASES


def check_before_contest(config: ArenaConfig) -> None:
    """Look up every name, before a run folder exists and anything is started.

    Raises:
        ConfigError: an unknown behaviour, or values that the terms refuse.
        AdapterError: `contest.submissions` holds no adapters.
        ChainError: one of its kinds: the port of an embedded chain is taken.
    """
    terms_of(config)
    get_contest_behaviour(config.adversary.attack)
    for member, name in named_behaviours(config.adversary).items():
        get_contest_behaviour(name, f"adversary.members.{member}")
    submission_folders(config)
    if not uses_rpc(settled_as(config)):
        check_embedded_chain(settled_as(config))


def contest_checkup(config: ArenaConfig, plan: Plan, folder: Path) -> Iterator[Finding]:
    """Look at everything that a contest needs: one finding for each thing, in the order in which a run comes upon it.

    Args:
        config: checked.
        plan: of the placement.
        folder: where run folders are made, or the run to resume.
    """
    yield look("configuration", lambda: _names(config))
    yield look("contest", lambda: describe_contest(config))
    with ExitStack() as stack:
        place: list[Path] = []
        yield look("output folder", lambda: _output(folder, place, stack))
        if config.cluster.mode is ClusterMode.local:
            yield look("machine", lambda: _machine(plan))
            if place:
                yield look("model and rows", lambda: _load(config, plan, place[0]))
    yield from look_at_chain(settled_as(config), {})


def describe_contest(config: ArenaConfig) -> str:
    """What a contest will do, in a line."""
    contest = config.contest
    metric = (
        f"sql: each adapter writes a query of at most {contest.answer_tokens} tokens for each row, and it runs on"
        f" {NUM_DATABASES} made-up databases"
        if contest.metric == "sql"
        else "text: the loss of each row's targets"
    )
    enter = f"adapters of {contest.submissions}" if contest.submissions else f"{config.training.steps} steps each"
    if contest.open:
        enter += ", and whoever enters"
    rungs = ", ".join(map(str, contest.rung_rows))
    return (
        f"{contest.days} days, {contest.nodes} training nodes ({enter}), {contest.validators} validators; rungs of"
        f" {rungs} rows a day, set B of {contest.final_rows}; metric {metric}"
    )


def _names(config: ArenaConfig) -> str:
    check_before_contest(config)
    return describe_risk(settled_as(config))


def _output(folder: Path, place: list[Path], stack: ExitStack) -> str:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with run_folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        inside = Path(tempfile.mkdtemp(prefix=".check-", dir=folder))
    place.append(inside)
    for path in reversed(made):
        stack.callback(path.rmdir)
    stack.callback(shutil.rmtree, inside, ignore_errors=True)
    return f"{folder} can be written"


def _machine(plan: Plan) -> str:
    plan.check_fit([{"CPU": float(available_cpus()), "GPU": float(num_gpus())}])
    return f"{available_cpus()} CPU and {num_gpus()} GPU can carry the plan"


def _load(config: ArenaConfig, plan: Plan, folder: Path) -> str:
    """Load model, rows and adapters as the first node group does."""
    spec = contest_specs(config, plan, folder, str(folder / "store"))[0]
    bench = ContestBench(spec, Progress("load"))
    rows = len(bench.data.final) + sum(map(len, bench.data.chunks))
    tokens = sum(len(one.example.input_ids) for chunk in (*bench.data.chunks, bench.data.final) for one in chunk)
    learnt = f", {bench.num_training} to learn from" if bench.num_training else ""
    tell = "" if bench.num_telling is None else f", {bench.num_telling} of these rows can tell a wrong query"
    return f"{bench.base.name} and {rows} rows of {tokens} tokens{tell}{learnt}"
