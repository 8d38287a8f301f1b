"""What the command says without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.config import Config, valid_keys
from tests.jobs.command import Ended, alliance
from tests.runs import Head, configure

pytestmark = pytest.mark.ray

CONF = Path(__file__).parents[2] / "conf"
SLOW_TO_IMPORT = {"torch", "transformers", "peft", "ray", "web3", "eth_account"}


def run_job(folder: Path, *arguments: str) -> Ended:
    """A command that ends well, says what it says in plain lines, and leaves nothing behind."""
    ended = alliance(folder, *arguments)
    assert (ended.code, ended.errors, ended.left) == (0, "", [])
    assert "\x1b" not in ended.output and "\r" not in ended.output
    return ended


@pytest.mark.parametrize("argument", ["--help", "--cfg=job"])
def test_what_runs_nothing_imports_nothing_slow(tmp_path: Path, argument: str) -> None:
    ended = alliance(tmp_path, argument, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert ended.code == 0
    imported = {line.rpartition("|")[2].strip() for line in ended.errors.splitlines()}
    assert {"hydra", "omegaconf"} <= imported
    assert not imported & SLOW_TO_IMPORT


def test_help_lists_every_group_with_its_options(tmp_path: Path) -> None:
    lines = run_job(tmp_path, "--help").output.splitlines()
    groups = {
        folder.name: sorted(file.stem for file in folder.iterdir()) for folder in CONF.iterdir() if folder.is_dir()
    }
    assert groups
    for group, options in groups.items():
        assert f"{group}: {', '.join(options)}" in lines


def test_cfg_prints_every_key_with_its_value(tmp_path: Path) -> None:
    printed = OmegaConf.create(run_job(tmp_path, "--cfg", "job", "seed=77", "alliance.num_epochs=5").output)
    assert (printed.seed, printed.alliance.num_epochs) == (77, 5)
    merged = OmegaConf.merge(OmegaConf.structured(Config), printed)
    assert [key for key in valid_keys() if OmegaConf.is_missing(merged, key)] == []


def test_the_plan_alone(tiny_model_dir: Path, tmp_path: Path) -> None:
    ended = run_job(tmp_path, "plan_only=true", "model=folder", f"model.path={tiny_model_dir}", "chain=none")
    lines = ended.output.splitlines()
    assert lines[:5] == [
        "Placement plan: 2 node groups, each 1 worker x (1 CPU, 0 GPU, 1 thread), engine torch, members auto",
        "  node 0: hosts 0-1, silos 0-3",
        "  node 1: hosts 2-3, silos 4-7",
        "  hosts move between groups where an epoch's roles fall unevenly",
        "  in all 2 CPU, 0 GPU; the coordinator and the chain actor take none",
    ]
    assert lines[5].startswith("ok     configuration: Committee: 4 voters (quorum 3) and 4 proposers of 8 slots")
    assert len(lines) > 10 and all(line.startswith("ok     ") for line in lines[5:])


def test_a_resumed_run_stays_where_it_was_unless_another_place_is_named(
    head: Head, tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = ("model=folder", f"model.path={tiny_model_dir}", "chain=none")
    run = RunDirectory.create(
        tmp_path / "outputs", configure("alliance.hosts=1", "cluster.nodes=1", "cluster.cpus_per_worker=2", *model)
    )
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (first, *_) = run_job(here, f"resume={run.path}", "plan_only=true").output.splitlines()
    assert first.startswith("Placement plan: 1 node group, each 1 worker x (2 CPU, 0 GPU, 1 thread)")
    (first, *_) = run_job(
        there,
        f"resume={run.path}",
        "plan_only=true",
        "cluster=existing",
        "cluster.cpus_per_worker=1",
        f"cluster.address={head.address}",
    ).output.splitlines()
    assert first.startswith("Placement plan: 1 node group, each 1 worker x (1 CPU, 0 GPU, 1 thread)")
