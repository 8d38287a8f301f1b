"""Typed configuration of a run.

The dataclasses are Hydra's structured schema, so an unknown key or a wrong type is refused before anything starts.
Only ``commands``, ``sweeps``, ``session``, ``alliance`` and ``cluster`` import this package; the layers below get plain
values.
"""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flock_ray.config.arena import ArenaConfig, ContestConfig, NodeTrainingConfig, settled_as
from flock_ray.config.arena_checks import arena_problems, check_arena
from flock_ray.config.checks import CAPTURE_LIMIT, basis_points, check, committee_risk, describe_risk, problems
from flock_ray.config.choices import (
    Backend,
    ChainBackend,
    ClusterMode,
    CohortScope,
    Engine,
    Finality,
    HostsMove,
    Keep,
    RankSplit,
)
from flock_ray.config.keys import explain_bad_key, refuse_unknown, valid_keys
from flock_ray.config.schema import (
    AdversaryConfig,
    AggregationConfig,
    AllianceConfig,
    AskedChange,
    ChainConfig,
    ClusterConfig,
    Config,
    DataConfig,
    LoraConfig,
    MechanismConfig,
    ModelConfig,
    StoreConfig,
    TrainingConfig,
    WireFormatConfig,
    behaviours,
    chain_urls,
    evaluated_others,
    named_behaviours,
)
from flock_ray.config.serve import EngineConfig, EngineKind, MoneyConfig, MoneyKind, ServeConfig, check_serve
from flock_ray.errors import ConfigError

__all__ = [
    "CAPTURE_LIMIT",
    "AdversaryConfig",
    "AggregationConfig",
    "AllianceConfig",
    "ArenaConfig",
    "AskedChange",
    "Backend",
    "ChainBackend",
    "ChainConfig",
    "ClusterConfig",
    "ClusterMode",
    "CohortScope",
    "Config",
    "ContestConfig",
    "DataConfig",
    "Engine",
    "EngineConfig",
    "EngineKind",
    "Finality",
    "HostsMove",
    "Keep",
    "LoraConfig",
    "MechanismConfig",
    "ModelConfig",
    "MoneyConfig",
    "MoneyKind",
    "NodeTrainingConfig",
    "RankSplit",
    "ServeConfig",
    "StoreConfig",
    "TrainingConfig",
    "WireFormatConfig",
    "arena_problems",
    "basis_points",
    "behaviours",
    "chain_urls",
    "check",
    "check_arena",
    "check_serve",
    "committee_risk",
    "describe_risk",
    "evaluated_others",
    "explain_bad_key",
    "named_behaviours",
    "problems",
    "refuse_unknown",
    "register",
    "settled_as",
    "to_config",
    "typed",
    "typed_arena",
    "typed_serve",
    "valid_keys",
]


def register() -> None:
    """Register the schemas with Hydra: those in `conf/` that are no options start from them."""
    ConfigStore.instance().store(name="flock_ray_schema", node=Config)
    ConfigStore.instance().store(name="flock_ray_arena_schema", node=ArenaConfig)
    ConfigStore.instance().store(name="flock_ray_serve_schema", node=ServeConfig)


def to_config(composed: DictConfig) -> Config:
    """Typed configuration of what Hydra composed, checked.

    Raises:
        ConfigError: an unknown key, or values that do not fit together.
    """
    config = typed(composed)
    if not config.resume:  # else the values of the run count, but for those that it takes from here
        check(config)
    return config


def typed(composed: DictConfig) -> Config:
    """Typed configuration of what Hydra composed, whatever its values are.

    Raises:
        ConfigError: an unknown key, or a value that refers to what is not there, such as `${oc.env:UNSET}`.
    """
    config = _typed(composed, Config)
    assert isinstance(config, Config)
    return config


def typed_arena(composed: DictConfig) -> ArenaConfig:
    """As `typed`, of a contest."""
    config = _typed(composed, ArenaConfig)
    assert isinstance(config, ArenaConfig)
    return config


def typed_serve(composed: DictConfig) -> ServeConfig:
    """As `typed`, of what is served."""
    config = _typed(composed, ServeConfig)
    assert isinstance(config, ServeConfig)
    return config


def _typed(composed: DictConfig, schema: type[Any]) -> Any:
    try:
        refuse_unknown(composed, schema)
        return OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(explain_bad_key(error, schema)) from error
