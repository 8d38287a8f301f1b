"""Node groups of several ranks: whole jobs, whatever the ranks share out, and where a group lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from flock_ray.cluster.deadlines import Deadlines
from flock_ray.cluster.groups import NodeGroups
from flock_ray.cluster.launch import group_specs
from flock_ray.cluster.node_group import NodeGroup
from flock_ray.cluster.placement import make_plan
from flock_ray.errors import PlacementError
from tests.jobs.command import alliance
from tests.runs import ROOT, Head, Run, configure, read_summary, tiny
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.ray

TWO_RANKS = ("training.engine=deepspeed", "cluster.workers_per_node=2")
GPUS = 4


def roles(run: Run) -> list[tuple[list[int], list[int]]]:
    """Proposers and voters of each epoch, all of which were accepted."""
    found = []
    for name, data in run.records().items():
        record = json.loads(data)
        assert record["accepted"], name
        proposers = [proposal["member"] for proposal in run.summary["epochs"][len(found)]["proposals"]]
        found.append((proposers, [voter for voter, _ in record["candidate"]["gains"]]))
    return found


def final_losses(run: Run) -> dict[str, float]:
    return dict(run.summary["epochs"][-1]["eval_loss_after"])


@pytest.fixture(scope="module")
def members_shared(head: Head, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole job as a user types it: by default each rank trains and scores some of the members."""
    folder = tmp_path_factory.mktemp("members")
    where = ("cluster=existing", f"cluster.address={head.address}", f"output_dir={folder / 'outputs'}")
    ended = alliance(folder, *tiny(tiny_model_dir, *TWO_RANKS, *where))
    assert ended.code == 0, ended.output + ended.errors
    [plan] = [line for line in ended.output.splitlines() if line.startswith("Placement plan")]
    assert "each 2 workers x (1 CPU, 0 GPU, 1 thread), engine deepspeed, members auto" in plan
    [summary] = [path for path in folder.rglob("summary.json") if not path.parent.is_symlink()]
    return read_summary(summary.parent)


def test_a_job_whose_ranks_share_out_members_can_be_verified(members_shared: Run, whole_run: Run) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "verify.py"), str(members_shared.path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "Everything that can be checked holds."
    assert final_losses(members_shared) == pytest.approx(final_losses(whole_run), abs=0.05)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("training.rank_split=rows",), id="rows"),
        pytest.param(("training.zero_stage=3", "training.zero_persistence_threshold=0"), id="stage 3"),
    ],
)
def test_a_job_whose_ranks_share_out_rows_trains_alike(
    head: Head, members_shared: Run, tiny_model_dir: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    run = head.run(tmp_path, *tiny(tiny_model_dir, *TWO_RANKS, *overrides, "chain=none"))
    assert roles(run) == roles(members_shared)
    assert final_losses(run) == pytest.approx(final_losses(members_shared), abs=1e-3)


@pytest.fixture
def machines() -> Iterator[dict[str, float]]:
    """Two machines with GPUs that nobody can compute on, {node id: GPUs}; the first cannot carry a group."""
    cluster = Cluster()
    try:
        for gpus in (GPUS // 2, GPUS):
            cluster.add_node(num_cpus=GPUS, num_gpus=gpus, include_dashboard=False)
        ray.init(address=cluster.address, log_to_driver=False)
        yield {node["NodeID"]: node["Resources"]["GPU"] for node in ray.nodes()}
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_node_group_lies_on_one_machine_with_a_gpu_a_worker(
    machines: dict[str, float], tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = configure(*tiny(tiny_model_dir, "cluster.gpus_per_worker=1", f"cluster.workers_per_node={GPUS}"))
    plan = make_plan(config)
    [spec] = group_specs(config, plan, tmp_path, str(tmp_path / "store"))
    group = NodeGroup(spec, plan, "gpus")
    group.reserve()
    another = NodeGroups([spec], plan, Deadlines(60), 0.1, PATIENCE, lambda kind, **fields: None)
    try:
        wait_until(group.placed)
        actors = [ray.get_actor(f"gpus-{rank}") for rank in range(GPUS)]
        places = ray.get(
            [actor.__ray_call__.options(concurrency_group="health").remote(whereabouts) for actor in actors]
        )
        assert sorted(machines.values()) == [GPUS // 2, GPUS]
        assert [machines[node] for node, _ in places] == [GPUS] * GPUS
        assert sorted(gpu for _, gpu in places) == [str(gpu) for gpu in range(GPUS)]
        table = placement_group_table().values()
        [held] = [one for one in table if one["name"] == "gpus" and one["state"] == "CREATED"]
        assert (held["strategy"], held["bundles"]) == ("STRICT_PACK", dict.fromkeys(range(GPUS), plan.bundle()))
        with pytest.raises(PlacementError, match=rf"node-0: no machine gave {GPUS} x .*'GPU': 1.0"):
            another.start()
    finally:
        group.stop()
        another.stop()


def whereabouts(_: object) -> tuple[str, str]:
    """The machine of this worker, and its GPUs."""
    return ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"]
