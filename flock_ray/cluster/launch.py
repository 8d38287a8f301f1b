"""From the configuration to what the layers below take: node descriptions, the task's terms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flock_ray.adversary.part import parts
from flock_ray.aggregation.registry import get_rule, require_usable, rule_of
from flock_ray.chain.values import TOKEN, TaskTerms
from flock_ray.cluster.placement import Plan
from flock_ray.cluster.spec import GroupInfo, GroupSpec, with_model
from flock_ray.config import (
    ChainBackend,
    CohortScope,
    Config,
    basis_points,
    behaviours,
    chain_urls,
    evaluated_others,
)
from flock_ray.errors import ConfigError, ModelError
from flock_ray.lora.peft_io import LoraSpec
from flock_ray.protocol.encoding import canonical_json
from flock_ray.protocol.hashing import ZERO, sha256
from flock_ray.protocol.mechanisms import get_mechanism
from flock_ray.protocol.parameters import Parameter, filled
from flock_ray.protocol.seed import local_seed
from flock_ray.protocol.state import Terms
from flock_ray.training.data import DataSpec
from flock_ray.training.engine import TrainSettings
from flock_ray.training.model import ModelSpec
from flock_ray.wire_format.frozen_a import FREEZE_A
from flock_ray.wire_format.registry import get_wire_format

_OF_RANKS = ("zero_", "rank_")
"""Prefixes of the settings that divide work among a node group's ranks."""
_OF_A_SILO = ("path", "packages", "heldout_sequences", "max_bad_rows")
"""Settings of `data` that say where a member's data is, and when it is refused."""


def uses_rpc(config: Config) -> bool:
    """Whether the run settles on an existing chain, whose keys are the members' own."""
    chain = config.chain
    return chain.backend is ChainBackend.rpc or (chain.backend is ChainBackend.auto and bool(chain_urls(chain)))


def model_spec(config: Config, device: str) -> ModelSpec:
    """Which base model, on `cpu` or `cuda`."""
    model = config.model
    return ModelSpec(model.source, model.path, model.revision, model.dtype, device)


def lora_spec(config: Config) -> LoraSpec:
    """Shape of every adapter, and what of it trains."""
    lora = config.lora
    return LoraSpec(lora.rank, lora.alpha, tuple(lora.target_modules), lora.freeze_a)


def data_spec(config: Config) -> DataSpec:
    """Where the members' data is and how it is split."""
    data = config.data
    return DataSpec(
        kind=data.kind,
        path=data.path,
        packages=tuple(data.packages),
        sequence_length=data.sequence_length,
        heldout_fraction=data.heldout_fraction,
        heldout_tokens=data.heldout_tokens,
        seed=local_seed(config.seed, "data"),
        heldout_sequences=data.heldout_sequences,
        max_bad_rows=data.max_bad_rows,
        template_date=data.template_date,
    )


def group_specs(
    config: Config, plan: Plan, run_dir: Path, store_url: str, start_adapter: bytes = b""
) -> list[GroupSpec]:
    """One description a node group of the plan; they start from a new adapter, or from one in the store."""
    training, cheats = config.training, behaviours(config)
    return [
        GroupSpec(
            index=node.index,
            hosts=dict(zip(node.hosts, node.host_silos, strict=True)),
            run_seed=config.seed,
            state_dir=str(run_dir / "members"),
            evaluate=evaluated_others(config.alliance),
            preload=frozenset(range(config.alliance.num_members) if evaluated_others(config.alliance) is None else ()),
            store_url=store_url,
            model=model_spec(config, "cuda" if plan.gpus else "cpu"),
            data=data_spec(config),
            lora=lora_spec(config),
            settings=TrainSettings(
                steps=training.steps,
                batch_size=training.batch_size,
                learning_rate=training.learning_rate,
                weight_decay=training.weight_decay,
                max_grad_norm=training.max_grad_norm,
            ),
            engine=plan.engine,
            zero_stage=training.zero_stage,
            zero_persistence_threshold=training.zero_persistence_threshold,
            backend=plan.backend,
            solo=training.cohort is CohortScope.solo,
            cohort_tokens=training.cohort_tokens,
            rank_split=training.rank_split.value,
            compiled=training.compiled,
            checkpointing=training.checkpointing,
            behaviours=cheats,
            data_of=_shared_data(cheats),
            adversary_scale=config.adversary.scale,
            num_epochs=config.alliance.num_epochs,
            reveals=config.alliance.num_epochs + config.alliance.spare_reveals,
            keystore=config.chain.keystore,
            embedded=not uses_rpc(config),
            threads=plan.threads,
            deterministic=training.deterministic,
            start_adapter=start_adapter,
            terms=terms_of(config),
            chain_terms=chain_terms(config, terms_of(config)),
        )
        for node in plan.nodes
    ]


def _shared_data(cheats: Mapping[int, str]) -> dict[int, int]:
    """{silo: whose data its owner has} of coalitions with one data set: that of their first member."""
    first: dict[str, int] = {}
    return {silo: first.setdefault(name, silo) for silo, name in sorted(cheats.items()) if parts(name)[0].kind.one_silo}


def configuration_texts(config: Config) -> dict[str, str]:
    """What members agree on about the training, by dotted name; `Terms.configuration` hashes its canonical JSON.

    Not in it: the run seed, which the task id covers; the base model's path, whose weights have a hash of their own;
    paths and packages of the members' data, and what of it is refused; who cheats; the cluster; what divides work among
    the ranks of a group. The date that a chat template is told belongs to it where chat templates are used.
    """
    left_out = _OF_A_SILO if config.data.kind != "stdlib_code" else (*_OF_A_SILO, "template_date")
    training = {name: value for name, value in vars(config.training).items() if not name.startswith(_OF_RANKS)}
    lora = {name: value for name, value in vars(config.lora).items() if name != "freeze_a" or value}  # as it was before
    groups: dict[str, dict[str, object]] = {
        "model": {"source": config.model.source, "revision": config.model.revision, "dtype": config.model.dtype},
        "data": {name: value for name, value in vars(config.data).items() if name not in left_out},
        "lora": lora,
        "training": training,
    }
    texts = {f"{group}.{name}": str(value) for group, values in groups.items() for name, value in values.items()}
    return {"schema": "flock_ray/configuration/2", **texts}


def configuration_hash(config: Config) -> bytes:
    """SHA-256 of the canonical JSON of `configuration_texts`: what a manifest and the terms say they were made with."""
    return sha256(canonical_json(configuration_texts(config)))


def task_terms(config: Config, creator: str, reports: list[GroupInfo]) -> Terms:
    """The terms of a task of `creator` that every node agrees on.

    Raises:
        ModelError: nodes loaded different base models.
    """
    first = reports[0]
    for report in reports[1:]:
        for part, ours, theirs in (
            ("weights", first.hashes.weights, report.hashes.weights),
            ("config.json", first.hashes.config, report.hashes.config),
            ("tokenizer or chat template", first.hashes.tokenizer, report.hashes.tokenizer),
            ("start adapter", first.adapter, report.adapter),
        ):
            if ours != theirs:
                raise ModelError(
                    f"node groups loaded different base models: {first.model_name} and {report.model_name} differ in"
                    f" their {part} ({ours.hex()[:12]} and {theirs.hex()[:12]})"
                )
        if report.model_dtype != first.model_dtype:
            raise ModelError(
                f"node groups loaded different base models: {first.model_name} in {first.model_dtype} and"
                f" {report.model_dtype}; set model.dtype"
            )
    return with_model(terms_of(config), creator, first.hashes, first.adapter)


def terms_of(config: Config) -> Terms:
    """The terms of a configuration; `with_model` fills in what it does not know.

    Raises:
        ConfigError: no such rule or wire format, a parameter that is not declared or out of its bounds, or a rule that
            cannot be used with these settings.
    """
    alliance, mechanism = config.alliance, config.mechanism
    aggregation = config.aggregation
    terms = Terms(
        creator="",
        configuration=configuration_hash(config),
        base_model=ZERO,
        model_config=ZERO,
        tokenizer=ZERO,
        start_adapter=ZERO,
        num_epochs=alliance.num_epochs,
        num_voters=alliance.num_voters,
        num_proposers=alliance.num_proposers,
        max_unsettled=alliance.max_unsettled,
        pool=alliance.pool * TOKEN,
        min_stake=alliance.min_stake * TOKEN,
        quantile_bp=basis_points(alliance.quantile),
        band_z_bp=basis_points(alliance.band_z),
        band_floor=alliance.band_floor,
        band_ceiling=alliance.band_ceiling,
        harmful_factor=alliance.harmful_factor,
        slash_fraction_bp=mechanism.slash_fraction,
        mechanism=mechanism.name,
        mechanism_parameters=_filled(
            get_mechanism(mechanism.name).parameters, mechanism.parameters, "mechanism.parameters"
        ),
        rule=aggregation.rule,
        rule_parameters=_filled(
            get_rule(aggregation.rule).parameters, aggregation.parameters, "aggregation.parameters"
        ),
        wire_format=config.wire_format.name,
        wire_format_parameters=_wire_format_parameters(config),
    )
    require_usable(rule_of(terms), terms.rule, terms.num_proposers, config.lora.freeze_a)
    return terms


def _wire_format_parameters(config: Config) -> dict[str, int]:
    declared = get_wire_format(config.wire_format.name).parameters
    filled_in = _filled(declared, config.wire_format.parameters, "wire_format.parameters")
    return filled_in | ({FREEZE_A: 1} if config.lora.freeze_a else {})


def _filled(declared: Mapping[str, Parameter], given: Mapping[str, int], where: str) -> dict[str, int]:
    try:
        return filled(declared, given, where)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def chain_terms(config: Config, terms: Terms) -> TaskTerms:
    """What the contract holds of a configuration and the terms that come of it."""
    alliance, chain = config.alliance, config.chain
    return TaskTerms(
        terms_hash=terms.digest(),
        model_hash=terms.start_adapter,
        target_set_hash=terms.target_set,
        pool=alliance.pool * TOKEN,
        min_stake=alliance.min_stake * TOKEN,
        max_slots=alliance.slots_per_member,
        num_voters=alliance.num_voters,
        num_proposers=alliance.num_proposers,
        min_members=alliance.num_members,
        max_members=alliance.num_members + alliance.candidates,
        num_epochs=alliance.num_epochs,
        max_unsettled=alliance.max_unsettled,
        max_skips=alliance.spare_reveals,
        end_share_bps=0,
        epoch_deadline=chain.epoch_deadline,
        join_window=chain.epoch_deadline,
        fixed_genesis=not uses_rpc(config),
    )
