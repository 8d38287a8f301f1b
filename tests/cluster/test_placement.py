from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.cluster.placement import Plan, make_plan, place_hosts
from flock_ray.config import AllianceConfig, Backend, ClusterConfig, Config, Engine, TrainingConfig
from flock_ray.errors import ConfigError, PlacementError


def plan_of(members: int = 8, hosts: int = 4, engine: Engine = Engine.auto, **cluster: int) -> Plan:
    return make_plan(
        Config(
            alliance=AllianceConfig(num_members=members, hosts=hosts),
            training=TrainingConfig(engine=engine),
            cluster=ClusterConfig(**cluster),  # type: ignore[arg-type]
        )
    )


def test_the_plan_is_told_with_its_numbers() -> None:
    plan = plan_of(nodes=2, workers_per_node=2, cpus_per_worker=3, gpus_per_worker=1, threads_per_worker=1)
    assert plan.describe().splitlines() == [
        "Placement plan: 2 node groups, each 2 workers x (3 CPU, 1 GPU, 1 thread), engine deepspeed, members auto",
        "  node 0: hosts 0-1, silos 0-3",
        "  node 1: hosts 2-3, silos 4-7",
        "  hosts move between groups where an epoch's roles fall unevenly",
        "  in all 12 CPU, 4 GPU; the coordinator and the chain actor take none",
    ]
    assert plan.bundle() == {"CPU": 3.0, "GPU": 1.0}


def test_one_of_everything_is_told_in_the_singular() -> None:
    plan = plan_of(members=3, hosts=1, cpus_per_worker=1, threads_per_worker=2)
    assert plan.describe().splitlines()[:2] == [
        "Placement plan: 1 node group, each 1 worker x (1 CPU, 0 GPU, 2 threads), engine torch, members auto",
        "  node 0: hosts 0, silos 0-2",
    ]
    assert plan.bundle() == {"CPU": 1.0}


def test_members_are_stacked_where_each_keeps_its_own_optimizer() -> None:
    sharded = TrainingConfig(engine=Engine.deepspeed, zero_stage=3)
    assert make_plan(Config(training=sharded)).backend == "sequential"
    assert make_plan(Config(training=replace(sharded, zero_stage=0))).backend == "auto"
    assert make_plan(Config(training=replace(sharded, engine=Engine.auto))).backend == "sequential"
    for backend in (Backend.stacked, Backend.grouped):
        with pytest.raises(ConfigError, match=r"training\.zero_stage=3: .* take training\.backend=sequential"):
            make_plan(Config(training=replace(sharded, backend=backend)))


@given(st.data())
def test_members_and_hosts_lie_in_contiguous_blocks_that_are_nearly_equal(data: st.DataObject) -> None:
    members = data.draw(st.integers(1, 200))
    hosts = data.draw(st.integers(1, members))
    nodes = data.draw(st.integers(1, hosts))
    plan = plan_of(members, hosts, nodes=nodes)
    assert [node.index for node in plan.nodes] == list(range(nodes))
    assert [host for node in plan.nodes for host in node.hosts] == list(range(hosts))
    assert [silo for node in plan.nodes for silo in node.silos] == list(range(members))
    sizes = [len(node.hosts) for node in plan.nodes]
    assert max(sizes) - min(sizes) <= 1
    assert all(node.silos for node in plan.nodes)


@given(st.data())
def test_a_host_keeps_its_members_on_any_number_of_nodes(data: st.DataObject) -> None:
    """Moving a logical host changes nothing in what belongs to it: the members of a host are consecutive."""
    members = data.draw(st.integers(1, 60))
    hosts = data.draw(st.integers(1, members))
    alone = plan_of(members, hosts, nodes=hosts)
    assert [node.hosts for node in alone.nodes] == [(host,) for host in range(hosts)]
    nodes = data.draw(st.integers(1, hosts))
    for node in plan_of(members, hosts, nodes=nodes).nodes:
        assert node.silos == tuple(silo for host in node.hosts for silo in alone.nodes[host].silos)
        assert all(after - before == 1 for before, after in pairwise(node.silos))


@pytest.mark.parametrize(
    ("engine", "workers", "gpus", "chosen"),
    [
        (Engine.auto, 1, 0, "torch"),
        (Engine.auto, 2, 0, "deepspeed"),
        (Engine.auto, 1, 1, "deepspeed"),
        (Engine.torch, 1, 1, "torch"),
        (Engine.deepspeed, 1, 0, "deepspeed"),
    ],
)
def test_auto_takes_deepspeed_for_several_ranks_or_a_gpu(engine: Engine, workers: int, gpus: int, chosen: str) -> None:
    assert plan_of(engine=engine, workers_per_node=workers, gpus_per_worker=gpus).engine == chosen


def test_machines_with_room_are_taken() -> None:
    plan = plan_of(nodes=3, workers_per_node=2, cpus_per_worker=2, gpus_per_worker=1)
    plan.check_fit([{"CPU": 8.0, "GPU": 4.0, "memory": 1e9}, {"CPU": 64.0}, {"CPU": 5.0, "GPU": 2.0}])


@pytest.mark.parametrize(
    ("machines", "told"),
    [
        ([{"CPU": 7.0}], "2 node groups of 4 CPU each do not fit: 1 machine(s) have (7 CPU), room for 1"),
        ([{"CPU": 3.0}] * 4, "4 machine(s) have (3 CPU; 3 CPU; 3 CPU; 3 CPU), room for 0"),
        ([], "0 machine(s) have (), room for 0"),
        ([{"GPU": 4.0}], "(0 CPU), room for 0"),
    ],
)
def test_a_node_group_lies_on_one_machine_or_the_plan_is_refused_with_the_numbers(
    machines: list[dict[str, float]], told: str
) -> None:
    plan = plan_of(nodes=2, workers_per_node=2, cpus_per_worker=2)
    with pytest.raises(PlacementError) as caught:
        plan.check_fit(machines)
    assert told in str(caught.value) and "lower cluster.nodes" in str(caught.value)


def test_missing_gpus_are_told() -> None:
    plan = plan_of(nodes=2, gpus_per_worker=1)
    with pytest.raises(PlacementError, match=r"1 CPU and 1 GPU each .* \(16 CPU, 1 GPU\), room for 1"):
        plan.check_fit([{"CPU": 16.0, "GPU": 1.0}])


LOADS = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(st.lists(st.lists(LOADS, min_size=1, max_size=5), min_size=1, max_size=5), st.data())
def test_hosts_are_placed_once_each_and_never_worse_than_at_home(
    loads: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    homes, load = [], {}
    for group in loads:
        homes.append(tuple(range(len(load), len(load) + len(group))))
        load |= dict(zip(homes[-1], group, strict=True))
    alive = data.draw(st.sets(st.sampled_from(range(len(homes))), min_size=1))
    placed = place_hosts(homes, alive, load)
    assert set(placed) == alive
    assert sorted(host for hosts in placed.values() for host in hosts) == sorted(load)
    assert placed == place_hosts(homes, set(sorted(alive, reverse=True)), dict(reversed(load.items())))
    if len(alive) == len(homes):
        assert most(placed, load) <= most(dict(enumerate(homes)), load)


def most(placed: Mapping[int, Sequence[int]], load: Mapping[int, tuple[int, int]]) -> tuple[int, int]:
    """Most proposers, and most voters, of a group."""
    return tuple(max(sum(load[host][kind] for host in hosts) for hosts in placed.values()) for kind in (0, 1))  # type: ignore[return-value]


def test_a_host_moves_only_for_what_it_evens_out() -> None:
    homes = [(0, 1), (2, 3)]
    assert place_hosts(homes, {0, 1}, dict.fromkeys(range(4), (1, 1))) == {0: (0, 1), 1: (2, 3)}
    five_of_eight = {0: (3, 0), 1: (2, 0), 2: (1, 1), 3: (1, 1)}
    assert place_hosts(homes, {0, 1}, five_of_eight) == {0: (0, 2), 1: (1, 3)}  # four and three propose, one each votes
    assert place_hosts(homes, {1}, five_of_eight) == {1: (0, 1, 2, 3)}


def test_room_is_counted_in_node_groups_that_lie_on_one_machine() -> None:
    plan = plan_of(nodes=2, workers_per_node=2, cpus_per_worker=3)
    machines = [{"CPU": 13.0}, {"CPU": 5.0}, {"CPU": 6.0, "GPU": 1.0}, {}]
    assert plan.room(machines) == 3 and plan.room([]) == 0
    assert plan_of(nodes=1, cpus_per_worker=1, gpus_per_worker=1).room(machines) == 1
