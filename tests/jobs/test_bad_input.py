"""Every mistake ends with one line that says what would be right, its own exit code, and nothing left behind."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flock_ray.chain.anvil import find_anvil
from flock_ray.errors import (
    CaptureRiskError,
    ChainUnreachableError,
    ConfigError,
    DataError,
    ModelError,
    PlacementError,
    RunDirectoryError,
)
from tests.jobs.command import Ended, alliance
from tests.runs import Head, free_ports, tiny

pytestmark = pytest.mark.ray

AT_ONCE: dict[str, tuple[list[str], type[Exception], list[str]]] = {
    "unknown key": (
        ["alliance.num_voterz=4"],
        ConfigError,
        ["unknown configuration key 'alliance.num_voterz'", "alliance.num_voters, alliance.num_proposers"],
    ),
    "unknown group": (["aliance.num_voters=4"], ConfigError, ["unknown configuration key 'aliance'", "alliance"]),
    "key forced in": (["+alliance.typo=1"], ConfigError, ["unknown configuration key 'alliance.typo'", "num_voters"]),
    "unknown option": (["chain=coin"], ConfigError, ["no chain=coin", "anvil, auto, eth_tester, none, rpc"]),
    "unknown experiment": (["experiment=moon"], ConfigError, ["no experiment=moon", "default, tiny"]),
    "no experiment": (["experiment=null"], ConfigError, ["must be a string", "None"]),
    "no override": (["nonsense"], ConfigError, ["nonsense", "missing EQUAL"]),
    "wrong type": (["training.steps=many"], ConfigError, ["training.steps", "'many'", "Integer"]),
    "wrong choice": (["chain.backend=coin"], ConfigError, ["chain.backend", "'coin'", "anvil"]),
    "no steps": (["training.steps=0"], ConfigError, ["training.steps is 0; it must be 1 or more"]),
    "more seats than slots": (
        ["alliance.num_members=6"],
        ConfigError,
        ["num_voters + alliance.num_proposers = 4 + 4", "more than the 6 slots of 6 members"],
    ),
    "capture": (
        ["alliance.num_members=64", "alliance.assumed_malicious=0.3", "alliance.num_voters=5"],
        CaptureRiskError,
        ["19 of 64 slots dishonest", "draw more voters or set alliance.force=true"],
    ),
    "unknown mechanism": (
        ["mechanism.name=yuma"],
        ConfigError,
        ["mechanism.name is 'yuma'; it must be one of marginal, flock, open"],
    ),
    "a stranger cheats": (["adversary.members=[8]"], ConfigError, ["adversary.members names [8]", "0 to 7"]),
    "rpc without url": (["chain=rpc"], ConfigError, ["chain.backend=rpc needs chain.url"]),
    "more nodes than hosts": (["cluster.nodes=5"], ConfigError, ["cluster.nodes is 5", "at most alliance.hosts = 4"]),
    "too little machine": (
        ["cluster.cpus_per_worker=4000"],
        PlacementError,
        ["2 node groups of 4000 CPU each do not fit", "room for 0", "lower cluster.nodes"],
    ),
    "no run to resume": (["resume=."], RunDirectoryError, ["holds no run (config.yaml is missing)"]),
    "nothing to resume": (["resume=/nowhere/at/all"], RunDirectoryError, ["resume=/nowhere/at/all"]),
    # Those below have to import the layers first.
    "unknown rule": (["aggregation.rule=krumm"], ConfigError, ["aggregation.rule is 'krumm'", "one of mean"]),
    "unknown wire format": (
        ["wire_format.name=zip"],
        ConfigError,
        ["wire_format.name is 'zip'; it must be one of bf16_feedback, dense"],
    ),
    "unknown tracker": (
        ["tracking.trackers=[aim]"],
        ConfigError,
        ["tracking.trackers names 'aim'; it may name tensorboard, csv, mlflow, wandb"],
    ),
    "no such start": (["start_from=/nowhere"], ModelError, ["start_from=/nowhere is neither an adapter folder nor"]),
    "unknown attack": (["adversary.attack=nuke"], ConfigError, ["adversary.attack is 'nuke'", "none, sign_flip"]),
    "no RPC there": (["chain.url=http://127.0.0.1:{free}"], ChainUnreachableError, ["no answer from the RPC at"]),
    "port taken": (
        ["chain=anvil", "chain.port={taken}"],
        ChainUnreachableError,
        ["port {taken} for anvil", "choose another chain.port"],
    ),
}


@pytest.fixture(scope="module")
def ended_at_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """All commands that need no cluster, two at a time."""
    with socket.socket() as busy, ThreadPoolExecutor(2) as pool:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        ports = {"taken": busy.getsockname()[1], "free": free_ports(1)[0]}
        runs = {
            name: pool.submit(
                alliance, tmp_path_factory.mktemp("once"), *(override.format(**ports) for override in overrides)
            )
            for name, (overrides, _, _) in AT_ONCE.items()
        }
        yield {name: run.result() for name, run in runs.items()}


@pytest.mark.parametrize("name", AT_ONCE)
def test_refused_before_anything_starts(ended_at_once: dict[str, Ended], name: str) -> None:
    if name == "port taken" and find_anvil() is None:
        pytest.skip("anvil is not found")
    _, error, parts = AT_ONCE[name]
    ended = ended_at_once[name]
    line = ended.one_line
    assert [part for part in parts if part.replace("{taken}", "") not in line and "{" not in part] == []
    assert ended.code == error.exit_code  # type: ignore[attr-defined]
    assert ended.left == []


SECRET = "the launch code is 0000"


def write_silos(folder: Path, count: int = 8) -> None:
    """Files of conversations, one a member; the third line of the eighth is broken."""
    folder.mkdir(exist_ok=True)
    for member in range(count):
        turns = [[("user", f"What is {number}?"), ("assistant", f"{SECRET} {number}")] for number in range(40)]
        rows = [{"conversations": [{"role": role, "content": text} for role, text in pair]} for pair in turns]
        lines = [json.dumps(row) for row in rows]
        if member == 7:
            lines[2] = lines[2][:-10]
        (folder / f"silo-{member}.jsonl").write_text("\n".join(lines))


IN_THE_NODES: dict[str, tuple[list[str], type[Exception], list[str]]] = {
    "no such silo": (
        ["data=jsonl", "data.path={folder}/none-*.jsonl"],
        DataError,
        ["data.path={folder}/none-*.jsonl matches no file"],
    ),
    "too few silos": (
        ["data=jsonl", "data.path={folder}/few/*.jsonl", "data.heldout_tokens=16"],
        DataError,
        ["matches 2 files, none for member 2; lower alliance.num_members"],
    ),
    "empty silo": (
        ["data=jsonl", "data.path={{0:{folder}/empty.jsonl}}"],
        DataError,
        ["{folder}/empty.jsonl (member 0) is empty"],
    ),
    "malformed line": (
        ["data=jsonl", "data.path={folder}/silo-*.jsonl", "data.heldout_tokens=16"],
        DataError,
        ["{folder}/silo-7.jsonl:3: malformed JSON; each line is one JSON object"],
    ),
    "no such package": (
        ["data.packages=[json,html,dbm,wsgiref,urllib,nosuchpackage,re,logging]"],
        DataError,
        ["the standard library in", "has no package 'nosuchpackage' (member 5)"],
    ),
    "no such module": (
        ["lora.target_modules=[q_proj,w_proj]"],
        ModelError,
        ["lora.target_modules names no linear layer: w_proj; the model has down_proj, gate_proj"],
    ),
    "no model": (["model.path={folder}/nowhere"], ModelError, ["{folder}/nowhere", "config.json is missing"]),
}


@pytest.fixture(scope="module")
def ended_in_the_nodes(
    head: Head, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Ended, Path]]:
    """All commands that fail where members are hosted, two at a time on one cluster."""
    folder = tmp_path_factory.mktemp("silos")
    write_silos(folder)
    write_silos(folder / "few", 2)
    (folder / "empty.jsonl").touch()
    base = tiny(tiny_model_dir, "cluster=existing", f"cluster.address={head.address}")

    def run(name: str) -> Ended:
        overrides = (override.format(folder=folder) for override in IN_THE_NODES[name][0])
        return alliance(tmp_path_factory.mktemp("nodes"), *base, *overrides)

    with ThreadPoolExecutor(2) as pool:
        return {name: (ended, folder) for name, ended in zip(IN_THE_NODES, pool.map(run, IN_THE_NODES), strict=True)}


@pytest.mark.parametrize("name", IN_THE_NODES)
def test_refused_by_the_node_that_hosts_the_member(
    ended_in_the_nodes: dict[str, tuple[Ended, Path]], name: str
) -> None:
    _, error, parts = IN_THE_NODES[name]
    ended, folder = ended_in_the_nodes[name]
    line = ended.one_line
    assert [part for part in (part.format(folder=folder) for part in parts) if part not in line] == []
    assert ended.code == error.exit_code  # type: ignore[attr-defined]
    assert SECRET not in ended.output + ended.errors
    assert [path for path in ended.left if path != "outputs"] == []


def test_the_run_that_started_its_own_cluster_takes_it_down_again(tiny_model_dir: Path, tmp_path: Path) -> None:
    """`alliance` waits for every process that the command had started."""
    ended = alliance(tmp_path, *tiny(tiny_model_dir, "data.packages=[json]", "chain=eth_tester"))
    assert ended.code == DataError.exit_code and "none for member 1" in ended.one_line
    assert [path for path in ended.left if path != "outputs"] == []


def test_a_traceback_is_shown_to_who_asks_for_it(tmp_path: Path) -> None:
    ended = alliance(tmp_path, "training.steps=0", "traceback=true")
    assert ended.code == ConfigError.exit_code
    assert ended.errors.startswith("Traceback") and "ConfigError" in ended.errors
    assert ended.errors.splitlines()[-1] == "error: training.steps is 0; it must be 1 or more"
