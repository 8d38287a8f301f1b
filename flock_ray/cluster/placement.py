"""Which node group carries which logical hosts and silos, and what it asks of the cluster. No Ray here."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flock_ray.config import Backend, ClusterMode, Config, Engine, HostsMove
from flock_ray.errors import ConfigError, PlacementError


@dataclass(frozen=True)
class GroupPlan:
    """One node group.

    Attributes:
        hosts: numbers of the logical hosts that it carries.
        host_silos: silos of each of them.
    """

    index: int
    hosts: tuple[int, ...]
    host_silos: tuple[tuple[int, ...], ...]

    @property
    def silos(self) -> tuple[int, ...]:
        """Silos of all its hosts."""
        return tuple(silo for silos in self.host_silos for silo in silos)


@dataclass(frozen=True)
class Plan:
    """All node groups of a run, which are alike.

    Attributes:
        workers: bundles of a node group's STRICT_PACK placement group, one actor each.
        cpus, gpus: of one bundle.
        engine: `torch` or `deepspeed`.
        backend: `sequential`, `stacked`, `grouped`, or `auto`: stacked where the model allows it.
        hosts_move: whether a group may carry logical hosts of another one, as it may where all data is at hand.
    """

    nodes: tuple[GroupPlan, ...]
    workers: int
    cpus: int
    gpus: int
    threads: int
    engine: str
    backend: str
    hosts_move: bool

    def bundle(self) -> dict[str, float]:
        """Resources of one worker."""
        return {"CPU": float(self.cpus)} | ({"GPU": float(self.gpus)} if self.gpus else {})

    def describe(self) -> str:
        """The plan for people, one line a node group."""
        each = f"{self.workers} worker{'s' * (self.workers > 1)} x ({self.cpus} CPU, {self.gpus} GPU,"
        each += f" {self.threads} thread{'s' * (self.threads > 1)}), engine {self.engine},"
        each += f" members {self.backend}"
        lines = [f"Placement plan: {len(self.nodes)} node group{'s' * (len(self.nodes) > 1)}, each {each}"]
        for node in self.nodes:
            lines.append(f"  node {node.index}: hosts {spans(node.hosts)}, silos {spans(node.silos)}")
        if self.hosts_move and len(self.nodes) > 1:
            lines.append("  hosts move between groups where an epoch's roles fall unevenly")
        cpus = len(self.nodes) * self.workers * self.cpus
        gpus = len(self.nodes) * self.workers * self.gpus
        lines.append(f"  in all {cpus} CPU, {gpus} GPU; the coordinator and the chain actor take none")
        return "\n".join(lines)

    def _of_group(self) -> dict[str, float]:
        """Resources of one node group."""
        return {name: amount * self.workers for name, amount in self.bundle().items()}

    def room(self, machines: Sequence[Mapping[str, float]]) -> int:
        """How many node groups these machines carry; each lies on one machine whole.

        Args:
            machines: resources of each machine.
        """
        need = self._of_group()
        return sum(min(int(machine.get(name, 0) // amount) for name, amount in need.items()) for machine in machines)

    def check_fit(self, machines: Sequence[Mapping[str, float]]) -> None:
        """Refuse a plan that these machines cannot carry; a node group lies on one machine whole.

        Args:
            machines: resources of each machine.

        Raises:
            PlacementError: with the numbers.
        """
        need, fits = self._of_group(), self.room(machines)
        if fits < len(self.nodes):
            asked = " and ".join(f"{amount:g} {name}" for name, amount in need.items())
            there = "; ".join(
                ", ".join(f"{machine.get(name, 0):g} {name}" for name in need) for machine in machines[:8]
            )
            raise PlacementError(
                f"{len(self.nodes)} node groups of {asked} each do not fit: {len(machines)} machine(s) have ({there}),"
                f" room for {fits}; lower cluster.nodes, cluster.workers_per_node or cluster.cpus_per_worker"
            )


def spans(numbers: Iterable[int]) -> str:
    """Numbers in rising order, consecutive ones as `0-3`, such as `0-3, 7`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in runs) or "none"


def place_hosts(
    homes: Sequence[Sequence[int]], alive: Collection[int], load: Mapping[int, tuple[int, int]]
) -> dict[int, tuple[int, ...]]:
    """Which group carries which logical hosts in an epoch: each its own, but for what evens out the load.

    The group with the most proposers sets the time of training, the one with the most voters that of scoring. So a host
    moves from the fullest to the emptiest group while that lowers the first maximum, or the second at the same first.

    Args:
        homes: hosts of each group, by its number.
        alive: groups that there are now.
        load: {host: (members that propose, members that vote)} in the epoch.

    Returns:
        {group in `alive`: its hosts, rising}; a pure function of the arguments.
    """
    placed = {group: sorted(homes[group]) for group in sorted(alive)}
    totals = {group: _total(hosts, load) for group, hosts in placed.items()}

    def move(host: int, source: int | None, target: int) -> None:
        for group, sign in ((source, -1), (target, 1)):
            if group is not None:
                placed[group] = sorted(set(placed[group]) ^ {host})
                totals[group] = (totals[group][0] + sign * load[host][0], totals[group][1] + sign * load[host][1])

    for group, hosts in enumerate(homes):
        for host in hosts if group not in placed else ():
            move(host, None, min(placed, key=lambda group: (totals[group], len(placed[group]), group)))
    while best := _best_move(placed, totals, load):
        move(*best)
    return {group: tuple(hosts) for group, hosts in placed.items()}


def _best_move(
    placed: Mapping[int, Sequence[int]], totals: Mapping[int, tuple[int, int]], load: Mapping[int, tuple[int, int]]
) -> tuple[int, int, int] | None:
    """(host, from, to) that lowers the maxima most; None when none does."""
    least, best = _maxima(totals.values()), None
    for kind in (0, 1):
        source = max(placed, key=lambda group: (totals[group][kind], -group))
        target = min(placed, key=lambda group: (totals[group][kind], group))
        for host in placed[source] if source != target else ():
            moved = dict(totals)
            (proposers, voters), (ours, theirs) = load[host], (totals[source], totals[target])
            moved[source] = ours[0] - proposers, ours[1] - voters
            moved[target] = theirs[0] + proposers, theirs[1] + voters
            if (maxima := _maxima(moved.values())) < least:
                least, best = maxima, (host, source, target)
    return best


def _total(hosts: Iterable[int], load: Mapping[int, tuple[int, int]]) -> tuple[int, int]:
    return sum(load[host][0] for host in hosts), sum(load[host][1] for host in hosts)


def _maxima(totals: Collection[tuple[int, int]]) -> tuple[int, int]:
    return max(proposers for proposers, _ in totals), max(voters for _, voters in totals)


def _block(index: int, count: int, total: int) -> tuple[int, ...]:
    """Block `index` of `count` contiguous, nearly equal blocks of 0..total-1."""
    return tuple(range(index * total // count, (index + 1) * total // count))


def num_silos(config: Config) -> int:
    """Silos of a run: those of its first members, then those of the candidates."""
    return config.alliance.num_members + config.alliance.candidates


def make_plan(config: Config) -> Plan:
    """Deal silos to logical hosts and hosts to node groups, in contiguous blocks."""
    alliance, cluster = config.alliance, config.cluster
    nodes = []
    for index in range(cluster.nodes):
        hosts = _block(index, cluster.nodes, alliance.hosts)
        silos = tuple(_block(host, alliance.hosts, num_silos(config)) for host in hosts)
        nodes.append(GroupPlan(index, hosts, silos))
    engine = config.training.engine
    if engine is Engine.auto:
        several = cluster.workers_per_node > 1 or cluster.gpus_per_worker > 0 or config.training.zero_stage > 0
        engine = Engine.deepspeed if several else Engine.torch
    return Plan(
        tuple(nodes),
        cluster.workers_per_node,
        cluster.cpus_per_worker,
        cluster.gpus_per_worker,
        cluster.threads_per_worker,
        engine.value,
        _backend(config, engine),
        _hosts_move(config),
    )


def _hosts_move(config: Config) -> bool:
    """Whether hosts may move: as configured; `auto` where every group is on this machine, and so is all data."""
    if config.cluster.hosts_move is HostsMove.auto:
        return config.cluster.mode is ClusterMode.local
    return config.cluster.hosts_move is HostsMove.always


def _backend(config: Config, engine: Engine) -> str:
    """The configured backend; `auto` is left to the model where the engine's stage lets members be stacked.

    Raises:
        ConfigError: it asks for stacked members of a stage that cannot have them.
    """
    backend, stage = config.training.backend, config.training.zero_stage
    sharded = engine is Engine.deepspeed and stage > 0
    if sharded and backend is Backend.auto:
        backend = Backend.sequential
    if sharded and backend is not Backend.sequential:
        raise ConfigError(
            f"training.backend={backend.value} does not go with training.zero_stage={stage}: from stage 1 on DeepSpeed"
            " flattens what the optimizer sees, so that members could not keep their own clipping, rates and steps;"
            " take training.backend=sequential, or training.zero_stage=0"
        )
    return backend.value


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def in_ray_job() -> bool:
    """Whether this process is the entry point of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
