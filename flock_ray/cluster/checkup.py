"""All that can be known in seconds of whether a run will work, before it costs anything: `flock-ray check`."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flock_ray.cluster.chain_look import look_at_chain
from flock_ray.cluster.finding import Finding, look
from flock_ray.cluster.launch import group_specs
from flock_ray.cluster.node_look import STORE, NodeLook, look_from_here
from flock_ray.cluster.placement import Plan, available_cpus
from flock_ray.cluster.preflight import check_names
from flock_ray.cluster.runtime import machines, ray_cluster
from flock_ray.cluster.spec import GroupSpec
from flock_ray.config import ClusterMode, Config, describe_risk
from flock_ray.errors import ClusterError, FlockRayError, PlacementError, RunDirectoryError
from flock_ray.store.blob_store import BlobStore
from flock_ray.store.failures import run_folder_errors
from flock_ray.training.device import GPU_ENVIRONMENT, num_gpus

_BESIDE = 50_000_000
"""Bytes of a run beside adapters and updates: records, messages, the chain, the report."""


def checkup(config: Config, plan: Plan, folder: Path) -> Iterator[Finding]:
    """Look at everything that a run needs: one finding for each thing, in the order in which a run comes upon it.

    Args:
        config: checked.
        plan: of the placement.
        folder: where run folders are made, or the run to resume. What is missing of it is made and removed again.
    """
    yield look("configuration", lambda: _at_configuration(config))
    seen: list[NodeLook] = []
    with ExitStack() as stack:
        place: list[Path] = []
        yield look("output folder", lambda: _at_output(folder, place, stack))
        store, token = config.store.url or (str(place[0]) if place else ""), secrets.token_hex(8)
        if store:
            marked = look(STORE, lambda: _mark(store, token, stack))
            if marked.error:
                yield marked
                store = ""
        specs = group_specs(config, plan, folder, store)
        if config.cluster.mode is ClusterMode.local:
            yield from _at_this_machine(plan, specs, token, seen)
        else:
            yield from _at_cluster(config, plan, specs, token, seen)
        if place and seen and seen[0].update_bytes:
            yield look("free disk", lambda: _at_disk(config, place[0], seen[0]))
    yield from look_at_chain(config, {number: account for each in seen for number, account in each.accounts.items()})


def _at_configuration(config: Config) -> str:
    check_names(config)
    return describe_risk(config)


def _at_output(folder: Path, place: list[Path], stack: ExitStack) -> str:
    """Write to a folder inside, which `place` gets; it and what had to be made above it are removed with `stack`."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    stack.callback(_remove_empty, made)
    with run_folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        inside = Path(tempfile.mkdtemp(prefix=".check-", dir=folder))
        stack.callback(shutil.rmtree, inside, ignore_errors=True)
        (inside / "written").write_bytes(bytes(1 << 16))
    place.append(inside)
    return f"{folder} can be written"


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _mark(url: str, token: str, stack: ExitStack) -> str:
    """Leave a mark for the machines in the store; it goes with `stack`."""
    store = BlobStore(url)
    store.probe_write(token)
    stack.callback(_unmark, store, token)
    return url


def _unmark(store: BlobStore, token: str) -> None:
    with suppress(FlockRayError):
        store.probe_remove(token)


def _at_this_machine(plan: Plan, specs: Sequence[GroupSpec], token: str, seen: list[NodeLook]) -> Iterator[Finding]:
    yield look("machine", lambda: _fit(plan, [{"CPU": float(available_cpus()), "GPU": float(num_gpus())}]))
    seen.append(look_from_here(specs, token))
    yield from seen[0].findings


def _at_cluster(
    config: Config, plan: Plan, specs: Sequence[GroupSpec], token: str, seen: list[NodeLook]
) -> Iterator[Finding]:
    """What each machine sees that can host a node group; their looks go to `seen`."""
    with ExitStack() as stack:

        def at_cluster() -> str:
            stack.enter_context(ray_cluster(config.cluster))
            return _fit(plan, machines())

        yield look("cluster", at_cluster)
        looks: dict[str, NodeLook] = {}
        if ray.is_initialized():
            asked = look("machines", lambda: _ask(config, plan, specs, token, looks))
            yield asked
        seen += looks.values()
        yield from _merged(looks)


def _fit(plan: Plan, there: Sequence[Mapping[str, float]]) -> str:
    plan.check_fit(there)
    return f"{len(there)} of them, with {sum(machine.get('CPU', 0) for machine in there):g} CPU and" + (
        f" {sum(machine.get('GPU', 0) for machine in there):g} GPU, can carry the plan"
    )


def _ask(config: Config, plan: Plan, specs: Sequence[GroupSpec], token: str, looks: dict[str, NodeLook]) -> str:
    """Have every machine that could carry a worker look from where it is; `looks` gets {its address: what it saw}.

    Raises:
        PlacementError: a machine did not answer in time: its GPUs are taken, say.
        ClusterError: a look fails on a machine for another reason.
    """
    remote = ray.remote(num_cpus=0, num_gpus=plan.gpus, max_retries=0, runtime_env={"env_vars": GPU_ENVIRONMENT})
    asked = {}
    for node in ray.nodes():
        if node["Alive"] and all(node["Resources"].get(name, 0) >= amount for name, amount in plan.bundle().items()):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerAddress"]] = remote(look_from_here).options(scheduling_strategy=there)
    pending = {address: task.remote(specs, token) for address, task in asked.items()}
    for address, reference in pending.items():
        try:
            looks[address] = ray.get(reference, timeout=config.cluster.placement_timeout)
        except GetTimeoutError as error:
            raise PlacementError(
                f"{address} did not look within {config.cluster.placement_timeout:g} s (cluster.placement_timeout): all"
                " that it has is taken, or it is slow"
            ) from error
        except RayError as error:
            raise ClusterError(f"{address} cannot look: {next(iter(str(error).splitlines()), '')}") from error
    return f"{', '.join(looks) or 'none'} could host members"


def _merged(looks: Mapping[str, NodeLook]) -> Iterator[Finding]:
    """What the machines saw of each thing: model and store are needed on all, a member's data and key on one."""
    by_name: dict[str, dict[str, Finding]] = {}
    for address, seen in looks.items():
        for finding in seen.findings:
            by_name.setdefault(finding.what, {})[address] = finding
    for what, findings in by_name.items():
        wrong = {address: finding for address, finding in findings.items() if finding.error}
        fine = [finding for finding in findings.values() if not finding.error]
        on_one = what.rpartition(" ")[2].isdigit()  # of a member
        if not wrong or (fine and on_one):
            where = f" (not on {', '.join(wrong)})" if wrong else ""
            yield Finding(what, fine[0].told + where)
            continue
        address, finding = next(iter(wrong.items()))
        assert finding.error
        yield Finding(what, "", type(finding.error)(f"{finding.error} (on {address})"))


def _at_disk(config: Config, folder: Path, seen: NodeLook) -> str:
    """Compare what a run writes to its folder with what is free there.

    Raises:
        RunDirectoryError: it is less.
    """
    alliance = config.alliance
    updates = alliance.num_epochs * alliance.num_proposers * seen.update_bytes
    adapters = (alliance.num_epochs + 2) * seen.adapter_bytes
    need, free = _BESIDE + updates + adapters, shutil.disk_usage(folder).free
    sizes = f"about {need / 1e6:,.0f} MB for {alliance.num_epochs} epochs, {free / 1e6:,.0f} MB are free"
    if free < need:
        raise RunDirectoryError(f"{folder.parent}: the run needs {sizes}; free some, or set output_dir")
    return f"{folder.parent}: {sizes}"
