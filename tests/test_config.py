from __future__ import annotations

from dataclasses import fields, is_dataclass
from math import inf, nan
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from flock_ray.config import (
    CAPTURE_LIMIT,
    AllianceConfig,
    ArenaConfig,
    AskedChange,
    ChainBackend,
    Config,
    Engine,
    Keep,
    ServeConfig,
    basis_points,
    chain_urls,
    check,
    committee_risk,
    describe_risk,
    explain_bad_key,
    register,
    to_config,
    typed_arena,
    typed_serve,
    valid_keys,
)
from flock_ray.errors import CaptureRiskError, ConfigError

CONF = Path(__file__).parents[1] / "conf"


def configured(**values: Any) -> Config:
    """The default configuration with `group__key=value` set."""
    config = Config()
    for path, value in values.items():
        *groups, key = path.split("__")
        owner: Any = attrgetter(".".join(groups))(config) if groups else config
        assert hasattr(owner, key)
        setattr(owner, key, value)
    return config


def refusal(config: Config, error: type[ConfigError] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        check(config)
    assert type(caught.value) is error
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def test_the_defaults_pass() -> None:
    check(Config())


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("alliance__num_members", 0, "it must be 1 or more"),
        ("alliance__num_proposers", 0, "it must be 1 or more"),
        ("alliance__num_epochs", 0, "it must be 1 or more"),
        ("alliance__pool", 0, "it must be between 1 and 79228162514"),
        ("alliance__min_stake", 10**11, "it must be between 1 and 79228162514"),
        ("adversary__scale", nan, "it must be between -1000000 and 1000000"),
        ("training__zero_persistence_threshold", -1, "it must be 0 or more"),
        ("alliance__min_stake", -1, "it must be between 1 and 79228162514"),
        ("alliance__max_unsettled", 0, "it must be 1 or more"),
        ("alliance__band_floor", 0, "it must be 1 or more"),
        ("alliance__harmful_factor", 0, "it must be 1 or more"),
        ("alliance__spare_reveals", 0, "it must be 1 or more"),
        ("training__steps", 0, "it must be 1 or more"),
        ("training__batch_size", 0, "it must be 1 or more"),
        ("lora__rank", 0, "it must be 1 or more"),
        ("lora__alpha", -16, "it must be 1 or more"),
        ("data__sequence_length", 0, "it must be 1 or more"),
        ("data__heldout_tokens", 0, "it must be 1 or more"),
        ("data__heldout_sequences", 0, "it must be 1 or more"),
        ("data__max_bad_rows", -1, "it must be 0 or more"),
        ("cluster__nodes", 0, "it must be 1 or more"),
        ("cluster__workers_per_node", 0, "it must be 1 or more"),
        ("cluster__cpus_per_worker", 0, "it must be 1 or more"),
        ("cluster__threads_per_worker", 0, "it must be 1 or more"),
        ("chain__epoch_deadline", 0, "it must be between 1 and 604800"),
        ("alliance__num_voters", 0, "it must be between 1 and 96"),
        ("alliance__num_voters", 97, "it must be between 1 and 96"),
        ("alliance__slots_per_member", 257, "it must be between 1 and 256"),
        ("alliance__quantile", 1.5, "it must be between 0 and 1"),
        ("alliance__quantile", nan, "it must be between 0 and 1"),
        ("alliance__assumed_malicious", -0.1, "it must be between 0 and 1"),
        ("alliance__band_z", -1.0, "it must be 0 or more"),
        ("alliance__band_z", inf, "it must be 0 or more"),
        ("mechanism__slash_fraction", -1, "it must be between 0 and 10000"),
        ("training__zero_stage", 4, "it must be between 0 and 3"),
        ("training__weight_decay", -0.1, "it must be 0 or more"),
        ("training__learning_rate", 0.0, "it must be above 0 and finite"),
        ("training__learning_rate", nan, "it must be above 0 and finite"),
        ("training__max_grad_norm", 0.0, "it must be above 0 and finite"),
        ("data__heldout_fraction", 0.0, "it must be above 0 and below 1"),
        ("data__heldout_fraction", 1.0, "it must be above 0 and below 1"),
        ("cluster__gpus_per_worker", 2, "it must be between 0 and 1"),
        ("chain__port", 65_536, "it must be between 0 and 65535"),
        ("chain__chain_id", -1, "it must be 0 or more"),
        ("seed", -1, "it must be between 0 and 9223372036854775807"),
        ("seed", 2**63, "it must be between 0 and 9223372036854775807"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key_and_what_would_be_right(key: str, value: Any, right: str) -> None:
    assert refusal(configured(**{key: value})) == f"{key.replace('__', '.')} is {value}; {right}"


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (
            {"alliance__num_voters": 5},
            ["alliance.num_voters + alliance.num_proposers = 5 + 4", "8 slots of 8 members", "lower them"],
        ),
        ({"alliance__hosts": 9}, ["alliance.hosts is 9", "at most alliance.num_members = 8"]),
        ({"cluster__nodes": 5}, ["cluster.nodes is 5", "at most alliance.hosts = 4"]),
        (
            {"alliance__band_ceiling": 999},
            ["alliance.band_ceiling is 999", "at least alliance.band_floor = 1000"],
        ),
        ({"data__template_date": "1 May"}, ["data.template_date is '1 May'", "a date such as 2025-01-01"]),
        ({"training__engine": Engine.torch, "training__zero_stage": 3}, ["training.zero_stage is 3", "deepspeed"]),
        (
            {"training__engine": Engine.torch, "cluster__workers_per_node": 2},
            ["cluster.workers_per_node is 2", "engine=deepspeed or auto"],
        ),
        ({"mechanism__name": "yuma"}, ["mechanism.name is 'yuma'", "marginal, marginal1, flock, open"]),
        (
            {"mechanism__name": "marginal", "alliance__num_proposers": 1},
            ["alliance.num_proposers is 1", "mechanism.name=marginal needs at least 2"],
        ),
        (
            {"mechanism__name": "marginal", "alliance__band_z": 1.5},
            ["alliance.band_z is 1.5", "mechanism.name=marginal does not look at", "leave it at 2.0"],
        ),
        ({"adversary__members": [3, 8, -1]}, ["adversary.members names [8, -1]", "0 to 7"]),
        ({"adversary__members": {3: "nan", 9: "nan"}}, ["adversary.members names [9]", "0 to 7"]),
        ({"adversary__members": 3}, ["adversary.members must be a list of members"]),
        ({"adversary__members": ["3"]}, ["adversary.members must be a list of members"]),
        ({"adversary__members": {3: 4}}, ["or name the behaviour of each"]),
        (
            {"adversary__members": {3: "nan"}, "adversary__vote": "lazy_vote"},
            ["adversary.vote", "{3:gaussian+lazy_vote}"],
        ),
        ({"adversary__members": [3], "adversary__share": 0.3}, ["adversary.share is 0.3", "give one of them"]),
        ({"adversary__share": 0.3}, ["who do nothing wrong", "adversary.attack or adversary.vote"]),
        ({"adversary__share": 0.1, "adversary__attack": "alie"}, ["which of 8 members is none"]),
        (
            {"mechanism__name": "flock", "mechanism__parameters": {"solvent": 0}},
            ["mechanism.parameters.solvent=0", "needs chain.backend=none"],
        ),
        (
            {"mechanism__parameters": {"solvent": 0}, "chain__backend": ChainBackend.none},
            ["mechanism.parameters.solvent is no parameter", "one of voter_share"],
        ),
        ({"mechanism__name": "open", "mechanism__parameters": {"voter_share": 1}}, ["there is none"]),
        ({"mechanism__parameters": {"voter_share": 10_001}}, ["voter_share is 10001", "between 0 and 10000"]),
        ({"chain__backend": ChainBackend.rpc}, ["chain.backend=rpc", "chain.url"]),
        ({"chain__backend": ChainBackend.rpc, "chain__url": [""]}, ["chain.backend=rpc", "chain.url"]),
        ({"chain__url": 8545}, ["chain.url must be an address, or a list of addresses"]),
        ({"chain__url": ["http://one", 2]}, ["chain.url must be an address, or a list of addresses"]),
        (
            {"store__url": "s3://bucket/run", "store__keep": Keep.adapter},
            ["store.keep=adapter would remove nothing", "store.shared=false"],
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: dict[str, Any], parts: list[str]) -> None:
    text = refusal(configured(**values))
    assert [part for part in parts if part not in text] == []


def test_a_store_that_no_other_run_uses_may_keep_the_adapter_only() -> None:
    check(configured(store__url="s3://bucket/run", store__keep=Keep.adapter, store__shared=False))
    check(configured(store__keep=Keep.adapter))
    check(configured(store__url="s3://bucket/run"))


@pytest.mark.parametrize(
    ("url", "urls"),
    [("", ()), ("http://one", ("http://one",)), (["http://one", "http://two"], ("http://one", "http://two"))],
)
def test_a_chain_has_one_address_or_several(url: object, urls: tuple[str, ...]) -> None:
    assert chain_urls(configured(chain__url=url).chain) == urls


def test_the_historic_rewards_run_without_a_chain() -> None:
    check(configured(mechanism__name="flock", mechanism__parameters={"solvent": 0}, chain__backend=ChainBackend.none))


def captured(**values: Any) -> Config:
    """64 slots of which 30 % are dishonest, five voters: the documented bad committee."""
    config = configured(
        alliance__num_members=64, alliance__num_voters=5, alliance__assumed_malicious=0.3, alliance__num_proposers=4
    )
    for path, value in values.items():
        setattr(config.alliance, path, value)
    return config


def test_a_committee_that_is_captured_too_often_is_refused_with_the_numbers() -> None:
    text = refusal(captured(), CaptureRiskError)
    assert text.startswith("alliance.num_voters is 5 (quorum 4)")
    for part in ("19 of 64 slots", "alliance.assumed_malicious = 0.3", "0.15", "0.001", "alliance.force=true"):
        assert part in text
    assert CaptureRiskError.exit_code != ConfigError.exit_code


def test_force_runs_a_committee_that_is_captured_too_often_and_nothing_else() -> None:
    check(captured(force=True))
    assert "num_proposers" in refusal(captured(force=True, num_proposers=60))


def test_more_voters_bring_the_chance_of_capture_below_the_limit() -> None:
    config = captured(num_voters=15, assumed_malicious=0.2)
    risk = committee_risk(config)
    assert 0 < max(risk.median, risk.quorum) <= CAPTURE_LIMIT
    check(config)


@pytest.mark.parametrize(
    ("share", "members", "dishonest"), [(0.29, 100, 29), (0.2, 8, 1), (0.57, 100, 57), (1.0, 8, 8)]
)
def test_dishonest_slots_are_floored_without_float_error(share: float, members: int, dishonest: int) -> None:
    risk = committee_risk(configured(alliance__assumed_malicious=share, alliance__num_members=members))
    assert risk.num_malicious == dishonest


def test_composed_values_are_checked_when_they_become_a_configuration() -> None:
    composed = OmegaConf.structured(Config)
    assert to_config(composed) == Config()
    composed.alliance.num_voters = 300
    with pytest.raises(ConfigError, match="num_voters is 300"):
        to_config(composed)


@pytest.mark.parametrize(
    ("extra", "key", "valid"),
    [
        ({"alliance": {"num_voterz": 4}}, "alliance.num_voterz", "alliance.num_voters"),
        ({"alliance": {"deep": {"er": 4}}}, "alliance.deep", "alliance.num_voters"),
        ({"aliance": {"num_voters": 4}}, "aliance", "alliance"),
    ],
)
def test_a_key_forced_into_the_configuration_is_refused_with_the_valid_ones(
    extra: dict[str, Any], key: str, valid: str
) -> None:
    """Hydra's `+key=value` adds keys that the schema does not know."""
    composed = OmegaConf.structured(Config)
    for group, values in extra.items():
        for name, value in values.items():
            OmegaConf.update(composed, f"{group}.{name}", value, force_add=True)
    with pytest.raises(ConfigError) as caught:
        to_config(composed)
    assert str(caught.value).startswith(f"unknown configuration key {key!r}")
    assert valid in str(caught.value).partition("valid here: ")[2].split(", ")


def test_every_group_of_options_is_among_the_valid_keys() -> None:
    told = set[str]()
    for schema, read in ((Config, to_config), (ArenaConfig, typed_arena), (ServeConfig, typed_serve)):
        composed = OmegaConf.structured(schema)
        OmegaConf.update(composed, "typo", 4, force_add=True)
        with pytest.raises(ConfigError) as caught:
            read(composed)
        told |= set(str(caught.value).partition("valid here: ")[2].split(", "))
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir()} <= told


def test_a_mapping_of_members_to_files_is_no_unknown_key() -> None:
    composed = OmegaConf.structured(Config)
    composed.data.path = {"0": "a.jsonl", "1": "b.jsonl"}
    assert to_config(composed).data.path == {"0": "a.jsonl", "1": "b.jsonl"}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("alliance.num_voterz=4", ["unknown configuration key 'alliance.num_voterz'", "alliance.num_voters"]),
        ("aliance.num_voters=4", ["unknown configuration key 'aliance'", "alliance, mechanism"]),
        ("sed=4", ["unknown configuration key 'sed'", "seed, output_dir"]),
        ("training.steps=many", ["training.steps: ", "'many'", "Integer"]),
        ("chain.backend=coin", ["chain.backend: ", "'coin'", "anvil"]),
        ("chain=coin", ["there is no chain=coin; it must be one of anvil, auto, eth_tester, none, rpc"]),
        ("chain=anvill", ["there is no chain=anvill (did you mean chain=anvil?); it must be one of"]),
        ("chian=anvil", ["unknown configuration key 'chian' (did you mean chain?)"]),
        ("experimnt=tiny", ["'experimnt' (did you mean experiment?)", "report, experiment"]),
        ("experiment.steps=4", ["unknown configuration key 'experiment'; valid here: seed"]),
        ("lora.rnak=4", ["unknown configuration key 'lora.rnak' (did you mean lora.rank?)"]),
        ("lora.zzz=4", ["unknown configuration key 'lora.zzz'; valid here: lora.rank"]),
    ],
)
def test_what_hydra_refuses_is_told_in_one_line(override: str, parts: list[str]) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("config", [override])
    text = explain_bad_key(caught.value)
    assert "\n" not in text
    assert [part for part in parts if part not in text] == []


def test_the_odds_of_the_committee_are_told_in_one_line() -> None:
    text = describe_risk(captured())
    assert "\n" not in text
    for part in ("5 voters (quorum 4)", "4 proposers of 64 slots", "19 of them", "0.15", "0.024", "0.47"):
        assert part in text


def test_valid_keys_name_every_value_of_the_schema_once() -> None:
    config = Config()

    def leaves(value: Any, prefix: str) -> list[str]:
        return [
            path
            for item in fields(value)
            for child in [getattr(value, item.name)]
            for path in (leaves(child, f"{prefix}{item.name}.") if is_dataclass(child) else [prefix + item.name])
        ]

    assert list(valid_keys()) == leaves(config, "")
    assert "alliance.num_voters" in valid_keys()


def test_fractions_become_integer_basis_points() -> None:
    assert [basis_points(value) for value in (0.5, 0.29, 2.0, 0.0001)] == [5_000, 2_900, 20_000, 1]


@pytest.mark.parametrize("leaving", [1, 2])
def test_nobody_leaves_before_it_has_joined(leaving: int) -> None:
    config = Config(alliance=AllianceConfig(num_epochs=12, candidates=1))
    config.alliance.joins, config.alliance.leaves = [AskedChange(2, [8])], [AskedChange(leaving, [8])]
    with pytest.raises(ConfigError, match=f"alliance.leaves names silo 8 in epoch {leaving}, before it has joined"):
        check(config)
    config.alliance.leaves = [AskedChange(3, [8])]
    check(config)
