"""What a resumed run takes from its command line, and what it refuses to ignore."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from flock_ray.commands.composed import play_each
from flock_ray.commands.main import main
from flock_ray.commands.resumed import FREE, open_run
from flock_ray.config import ChainBackend, ClusterMode, Config, register, to_config, valid_keys
from flock_ray.errors import ConfigError, RunDirectoryError


def composed(*overrides: str) -> tuple[Config, dict[str, bool]]:
    found: list[tuple[Config, dict[str, bool]]] = []
    register()
    code = play_each(
        "test", "config", overrides, Config, lambda config, named: found.append((to_config(config), dict(named)))
    )
    assert code == 0
    return found[0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Of the tiny experiment with 40 steps, nobody cheating, on one node."""
    config, _ = composed("experiment=tiny", "training.steps=40", "adversary=none", "cluster.nodes=1")
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    return tmp_path


def resume(run: Path, *overrides: str) -> Config:
    config, named = composed(f"resume={run}", *overrides)
    resumed, directory = open_run(config, named)
    assert directory.path == run.resolve()
    return resumed


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (["training.steps=41"], "training.steps is 40"),
        (["training.steps=41", "seed=3"], "seed is 11, training.steps is 40"),
        (["mechanism=flock"], "mechanism.name is marginal1, mechanism.parameters is {'voter_share': 3000}"),
        (["mechanism.parameters.voter_share=1"], "mechanism.parameters is {'voter_share': 3000}"),
        (["chain=anvil"], "chain.backend is eth_tester"),
        (["training={steps:41,batch_size:2}"], "training.steps is 40 in"),
        (["mechanism={parameters:{voter_share:1}}"], "mechanism.parameters is {'voter_share': 3000}"),
        (["experiment='tiny'"], "training.steps is 40, adversary.attack is none"),
        (["~adversary", "adversary.attack=sign_flip"], "adversary.attack is none"),
        (["wire_format=bf16_feedback"], "wire_format.name is dense"),
        (["lora=attention"], "lora.target_modules is ['all-linear']"),
        (["cluster.threads_per_worker=2"], "cluster.threads_per_worker is 1"),
        (["store.url=/elsewhere"], "store.url is empty"),
        (["output_dir=/elsewhere"], "output_dir is empty"),
    ],
)
def test_what_the_run_would_ignore_is_refused_with_its_value(run: Path, overrides: list[str], kept: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resume(run, *overrides)
    assert str(refused.value).startswith(f"a resumed run keeps its settings: {kept}")
    assert str(refused.value).endswith(f"in this run ({run}); leave out what differs, or start a new run with it")


def test_an_experiment_says_what_it_leaves_at_the_defaults_too(run: Path) -> None:
    """Of that the first settings are named; an option of another group says the same of what its group can set."""
    with pytest.raises(ConfigError) as refused:
        resume(run, "experiment=default")
    assert str(refused.value).startswith(
        "a resumed run keeps its settings: data.sequence_length is 64, data.heldout_tokens is 256, training.steps is"
        f" 40, training.batch_size is 2 and 5 more in this run ({run}); leave out"
    )
    again = ["experiment=tiny", "training.steps=40", "adversary=none"]
    assert resume(run, *again).cluster.nodes == 1
    wider, _ = composed("lora=attention")
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(wider)))
    with pytest.raises(ConfigError, match=r"lora\.target_modules is \['q_proj', 'k_proj', 'v_proj', 'o_proj'\] in"):
        resume(run, "lora=all_linear")


def test_a_mapping_sets_what_is_in_it_and_no_more(run: Path) -> None:
    resumed = resume(run, "training={steps:40}", "data={path:{0:/a.jsonl,1:/b.jsonl}}", "cluster={nodes:2}")
    assert resumed == replace(
        resume(run), data=replace(resume(run).data, path=resumed.data.path), cluster=resumed.cluster
    )
    assert resumed.data.path == {0: "/a.jsonl", 1: "/b.jsonl"} and resumed.cluster.nodes == 2


@pytest.mark.model
def test_the_demonstration_keeps_them_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for differing in ("training={steps:41}", "experiment=small"):
        assert main(["demo", f"resume={run}", differing]) == ConfigError.exit_code
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: a resumed run keeps its settings: ") and "training.steps is 40" in line


def test_what_is_said_again_is_no_change(run: Path) -> None:
    unchanged = resume(run)
    assert (
        resume(run, "training.steps=40", "chain=eth_tester", "adversary=none", "data.sequence_length=64") == unchanged
    )
    assert unchanged.training.steps == 40 and unchanged.chain.backend is ChainBackend.eth_tester


def test_places_and_patience_are_taken(run: Path) -> None:
    resumed = resume(
        run, "cluster.placement_timeout=7", "data.path=/there", "chain.outage_patience=9", "plan_only=true",
        "store.keep=all", "cluster.nodes=4", "traceback=true",
    )  # fmt: skip
    assert (resumed.cluster.placement_timeout, resumed.data.path, resumed.chain.outage_patience) == (7.0, "/there", 9.0)
    assert resumed.plan_only and resumed.traceback and resumed.cluster.nodes == 4 and resumed.training.steps == 40


def test_of_a_group_only_the_mode_of_the_cluster_is_taken(run: Path) -> None:
    resumed = resume(run, "cluster=existing")
    assert resumed.cluster.mode is ClusterMode.existing and resumed.cluster.nodes == 1
    assert resume(run, "cluster=local").cluster.nodes == 1
    assert resume(run, "cluster=local", "cluster.nodes=2").cluster.nodes == 2


def test_what_does_not_fit_the_run_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.nodes is 5"):
        resume(run, "cluster.nodes=5")
    with pytest.raises(RunDirectoryError, match="holds no run"):
        resume(run / "nowhere")


def changed(value: Any) -> Any:
    return {bool: lambda: not value, int: lambda: value + 1, float: lambda: value + 0.5, str: lambda: f"{value}x"}.get(
        type(value), lambda: ["changed"]
    )()


@given(key=st.sampled_from(sorted(valid_keys())))
def test_every_key_is_either_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(Config())))
    config = Config()
    owner: Any = config
    *groups, name = key.split(".")
    for group in groups:
        owner = getattr(owner, group)
    value = changed(getattr(owner, name))
    setattr(owner, name, value)
    config.resume = str(folder)
    try:
        resumed: Any = open_run(config, {key: True})[0]
    except ConfigError as error:
        assert key not in FREE and f"{key} is " in str(error)
        return
    for part in key.split("."):
        resumed = getattr(resumed, part)
    assert key in FREE and (key == "resume" or resumed == value)
