from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from flock_ray.config import (
    ArenaConfig,
    Config,
    ServeConfig,
    behaviours,
    check,
    check_arena,
    check_serve,
    register,
    typed_arena,
    typed_serve,
    valid_keys,
)
from flock_ray.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"
EVERY = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
OPTIONS = [one for one in EVERY if not one.startswith(("contest=", "engine=", "money=", "experiment=arena_"))]
# Groups that a contest shares with an alliance; of behaviours it has its own.
SHARED = ("model=", "lora=", "chain=", "cluster=", "store=", "adversary=none")
ARENA_OPTIONS = [
    one for one in EVERY
    if one.startswith(("contest=", "experiment=arena_")) or (one.startswith(SHARED) and one != "lora=ffa")
]  # fmt: skip
SERVE_OPTIONS = [one for one in EVERY if one.startswith(("engine=", "money=", "model=", "cluster="))]
# Keys that an option leaves to the user.
OPEN = {
    "chain=rpc": "chain.url=http://127.0.0.1:8545",
    "data=hub": "data.path={0:ORG/NAME}",
    "data=mixed": "data.path={0:stdlib_code:json,1:jsonl:/data/ann.jsonl,2:'hub:ORG/NAME:train[:10]'}",
    "data=jsonl": "data.path=silos/*.jsonl",
    "model=folder": "model.path=models/llama",
    "model=hub": "model.path=owner/name",
    "money=chain": "money={rpc: 'http://127.0.0.1:8545', contract: '0x00000000000000000000000000000000000000aa'}",
}


def composed(*overrides: str, name: str = "config") -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


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


@pytest.mark.parametrize("option", ARENA_OPTIONS)
def test_every_option_of_a_contest_composes_to_one_that_passes_the_checks(option: str) -> None:
    own = [] if option == "experiment=arena_demo" else ["contest.data=[rows.jsonl]", "contest.train=[train.jsonl]"]
    check_arena(typed_arena(composed(option, *own, *filter(None, [OPEN.get(option)]), name="arena")))


@pytest.mark.parametrize("option", SERVE_OPTIONS)
def test_every_option_of_what_is_served_composes_to_one_that_passes_the_checks(option: str) -> None:
    config = typed_serve(composed(option, *filter(None, [OPEN.get(option)]), name="serve"))
    check_serve(config)
    assert config.cluster.nodes == 1, "an engine more than the user asked for"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("port=0", "port is 0; it must be between 1 and 65535"),
        ("account_concurrent=0", "account_concurrent is 0; it must be between 1 and 1048576"),
        ("host=chat.example", "host is 'chat.example'; it must be an address of this machine"),
        ("engine.rows=17", "engine.adapter_slots is 16; it must be at least engine.rows = 17"),
        ("engine.gather=-1", "engine.gather is -1.0; it must be between 0 and 1"),
        ("cluster.workers_per_node=2", "cluster.workers_per_node is 2"),
        ("cors=[https://chat.example/page]", "cors has 'https://chat.example/page'"),
        ("cors=['*']", "cors has '*'"),
        ("money.cap_margin=0", "money.cap_margin is 0; it must be between 1 and 2147483648"),
        ("money=chain", "money.rpc is empty"),
        ("money.contract=0x00", "money.rpc and money.contract are of money=chain"),
        ("money.members=4000", "is 9000; basis points of a cost sum to 10000"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_by_its_keys(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        check_serve(typed_serve(composed(override, name="serve")))


def test_every_group_of_the_schema_has_options_and_the_other_way_round() -> None:
    schemas = (Config, ArenaConfig, ServeConfig)
    groups = {key.split(".")[0] for schema in schemas for key in valid_keys(schema) if "." in key}
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
        return behaviours(config)

    assert named("adversary=none") == {}
    assert named("adversary.members=[1,2]") == {1: "sign_flip", 2: "sign_flip"}
    assert named("adversary=none", "adversary.members={1:collude,4:sign_flip}") == {1: "collude", 4: "sign_flip"}
    assert named("adversary=collude") == {3: "collude", 6: "collude"}
    assert named("adversary=collude", "adversary.vote=none") == {3: "collude+none", 6: "collude+none"}
    drawn = named("adversary=coalition", "adversary.share=0.5", "adversary.attack=gaussian@0.3")
    assert len(drawn) == 4 and set(drawn.values()) == {"gaussian@0.3+boosting_vote"}
    assert set(named("adversary=coalition", "adversary.share=0.25")) < set(drawn)
    assert set(named("adversary=coalition", "adversary.share=0.5", "seed=12")) != set(drawn)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("contest.days=0", "contest.days is 0; it must be 1 or more"),
        ("contest.num_voters=10", "contest.num_voters is 10; it must be at least 1 and below the 10 slots"),
        ("contest.rung_rows=[8,4]", "contest.rung_rows is [8, 4]; it must be one to 3 ascending numbers of rows"),
        ("contest.metric=taste", "contest.metric is 'taste'; it must be one of text, sql"),
        ("+contest.parameters.top_nodez=1", "contest.parameters.top_nodez is no parameter"),
        ("lora=ffa", "lora.freeze_a=true is of an alliance"),
        ("lora.rank=65", "lora.rank is 65; it must be at most contest.parameters.max_rank = 64"),
        ("training.steps=2", "training.steps is 2; it must be at least contest.days = 3"),
        ("contest.train=[]", "contest.train is empty"),
        ("contest.data=[]", "contest.data is empty"),
        ("contest.submissions=there", "contest.submissions and contest.train are both set"),
        ("contest.hosts=1", "contest.hosts = 1"),
        ("model.dtype=bfloat16", "a contest scores in float32"),
        ("cluster.workers_per_node=2", "cluster.workers_per_node is 2"),
        ("adversary.members={21:gauge_copy}", "adversary.members names [21]; members are 0 to 20"),
        ("contest.windows={gate: 0}", "contest.windows must give seconds above 0"),
        ("contest.assumed_malicious=0.5", "contest.num_voters is 9"),
    ],
)  # fmt: skip
def test_a_contest_that_cannot_be_is_refused_by_its_own_keys(override: str, told: str) -> None:
    config = composed("contest.data=[rows.jsonl]", "contest.train=[train.jsonl]", override, name="arena")
    with pytest.raises(ConfigError, match=re.escape(told)):
        check_arena(typed_arena(config))


def test_a_contest_has_no_keys_of_an_alliance_and_the_other_way_round() -> None:
    for override, name in (("alliance.num_epochs=2", "arena"), ("contest.days=2", "config")):
        with pytest.raises(HydraException):
            composed(override, name=name)


@pytest.mark.parametrize(
    "override", ["alliance.num_voterz=4", "training.steps=many", "chain.backend=coin", "chain=coin"]
)
def test_an_unknown_key_or_a_wrong_value_is_refused(override: str) -> None:
    with pytest.raises(HydraException):
        composed(override)
