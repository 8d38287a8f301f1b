from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from flock_ray.config import Config, behaviours, check, register, valid_keys

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
# Keys that an option leaves to the user.
OPEN = {
    "chain=rpc": "chain.url=http://127.0.0.1:8545",
    "data=hub": "data.path={0:ORG/NAME}",
    "data=jsonl": "data.path=silos/*.jsonl",
    "model=folder": "model.path=models/llama",
    "model=hub": "model.path=owner/name",
}


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_to_a_configuration_that_passes_the_checks(option: str) -> None:
    config = composed(option, *filter(None, [OPEN.get(option)]))
    group, _, choice = option.partition("=")
    if group != "experiment":
        file = CONF / group / f"{choice}.yaml"
        differences = OmegaConf.load(file)
        part = config if file.read_text().startswith("# @package _global_") else config[group]
        assert OmegaConf.merge(part, differences) == part
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, Config)
    check(typed)


def test_every_group_of_the_schema_has_options_and_the_other_way_round() -> None:
    groups = {key.split(".")[0] for key in valid_keys() if "." in key}
    assert {path.parent.name for path in CONF.glob("*/*.yaml")} == groups | {"experiment"}


def test_the_default_run_has_one_cheat_that_the_command_line_can_take_out() -> None:
    assert composed().adversary.attack == "sign_flip"
    assert len(composed().adversary.members) == 1
    honest = composed("adversary=none").adversary
    assert (honest.attack, honest.members) == ("none", None)


def test_members_behave_alike_or_each_in_its_own_way() -> None:
    def named(*overrides: str) -> dict[int, str]:
        config = OmegaConf.to_object(composed(*overrides))
        assert isinstance(config, Config)
        check(config)
        return behaviours(config.adversary)

    assert named("adversary=none") == {}
    assert named("adversary.members=[1,2]") == {1: "sign_flip", 2: "sign_flip"}
    assert named("adversary=none", "adversary.members={1:collude,4:sign_flip}") == {1: "collude", 4: "sign_flip"}
    assert named("adversary=collude") == {3: "collude", 6: "collude"}


@pytest.mark.parametrize(
    "override", ["alliance.num_voterz=4", "training.steps=many", "chain.backend=coin", "chain=coin"]
)
def test_an_unknown_key_or_a_wrong_value_is_refused(override: str) -> None:
    with pytest.raises(HydraException):
        composed(override)
