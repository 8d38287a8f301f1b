"""From a contest's configuration to what the layers below take: placement, node descriptions, terms."""

from __future__ import annotations

from pathlib import Path

from flock_ray.chain.values import TOKEN
from flock_ray.cluster.contest_spec import ContestInfo, ContestSpec, contest_terms
from flock_ray.cluster.launch import chain_terms, model_spec, uses_rpc
from flock_ray.cluster.placement import GroupPlan, Plan
from flock_ray.config import ArenaConfig, basis_points, named_behaviours, settled_as
from flock_ray.errors import AdapterError, ConfigError, ModelError
from flock_ray.lora.foreign import CONFIG
from flock_ray.protocol.contest_state import ContestTerms, contest_parameters
from flock_ray.protocol.encoding import canonical_json
from flock_ray.protocol.hashing import ZERO, sha256
from flock_ray.protocol.seed import local_seed
from flock_ray.training.contest_data import ContestDataSpec
from flock_ray.training.engine import TrainSettings
from flock_ray.training.files import natural


def contest_plan(config: ArenaConfig) -> Plan:
    """Deal members to logical hosts in turn, validators and training nodes alike, and hosts to node groups."""
    contest, cluster = config.contest, config.cluster
    members = contest.validators + contest.nodes
    groups = []
    for index in range(cluster.nodes):
        hosts = tuple(range(index, contest.hosts, cluster.nodes))
        groups.append(GroupPlan(index, hosts, tuple(tuple(range(host, members, contest.hosts)) for host in hosts)))
    return Plan(
        tuple(groups), 1, cluster.cpus_per_worker, cluster.gpus_per_worker, cluster.threads_per_worker, "torch",
        "stacked", hosts_move=False,
    )  # fmt: skip


def submission_folders(config: ArenaConfig) -> tuple[str, ...]:
    """The folders that `contest.submissions` holds, one a training node, in natural order; none to train.

    Raises:
        AdapterError: it is no folder, or holds no adapter's.
        ConfigError: it holds more or fewer than `contest.nodes`.
    """
    if not config.contest.submissions:
        return ()
    place = Path(config.contest.submissions).expanduser()
    if not place.is_dir():
        raise AdapterError(f"contest.submissions={place} is no folder; it holds a folder of PEFT's for each node")
    found = [str(one.resolve()) for one in place.iterdir() if (one / CONFIG).is_file()]
    if not found:
        raise AdapterError(f"contest.submissions={place} holds no folder with {CONFIG}")
    if len(found) != config.contest.nodes:
        raise ConfigError(
            f"contest.nodes is {config.contest.nodes}, and contest.submissions={place} holds {len(found)} adapters; set"
            f" contest.nodes={len(found)}"
        )
    return tuple(sorted(found, key=natural))


def data_spec(config: ArenaConfig) -> ContestDataSpec:
    """Where a contest's rows come from."""
    contest = config.contest
    return ContestDataSpec(
        data=tuple(contest.data),
        train=() if contest.submissions else tuple(contest.train),
        days=contest.days,
        rows_a_day=contest.rung_rows[-1],
        final_rows=contest.final_rows,
        max_row_tokens=contest.max_row_tokens,
        template_date=contest.template_date,
        metric=contest.metric,
        seed=local_seed(config.seed, "contest rows"),
    )


def contest_specs(config: ArenaConfig, plan: Plan, run_dir: Path, store_url: str) -> list[ContestSpec]:
    """One description a node group of the plan."""
    contest, training, terms = config.contest, config.training, terms_of(config)
    return [
        ContestSpec(
            index=group.index,
            hosts=dict(zip(group.hosts, group.host_silos, strict=True)),
            run_seed=config.seed,
            state_dir=str(run_dir / "members"),
            store_url=store_url,
            model=model_spec(settled_as(config), "cuda" if plan.gpus else "cpu"),
            engine="torch",
            cohort_tokens=training.cohort_tokens,
            behaviours=named_behaviours(config.adversary),
            adversary_scale=config.adversary.scale,
            num_epochs=contest.days,
            reveals=contest.days + contest.spare_reveals,
            keystore=config.chain.keystore,
            embedded=not uses_rpc(settled_as(config)),
            threads=plan.threads,
            deterministic=training.deterministic,
            terms=terms,
            chain_terms=chain_terms(settled_as(config), terms),
            num_validators=contest.validators,
            data=data_spec(config),
            settings=TrainSettings(
                training.steps, training.batch_size, training.learning_rate, training.weight_decay,
                training.max_grad_norm,
            ),
            rank=config.lora.rank,
            max_rank=terms.mechanism_parameters["max_rank"],
            target_modules=tuple(config.lora.target_modules),
            submissions=submission_folders(config),
            answer_tokens=contest.answer_tokens,
        )
        for group in plan.nodes
    ]  # fmt: skip


def contest_texts(config: ArenaConfig) -> dict[str, str]:
    """What members agree on beside the terms, by dotted name; `Terms.configuration` hashes its canonical JSON.

    Paths are not in it: rows have digests of their own. Nor is what each training node does before it submits.
    """
    values = {
        "model.source": config.model.source,
        "model.revision": config.model.revision,
        "model.dtype": config.model.dtype,
        "lora.target_modules": list(config.lora.target_modules),
        "contest.answer_tokens": config.contest.answer_tokens,
        "contest.max_row_tokens": config.contest.max_row_tokens,
        "contest.template_date": config.contest.template_date,
        "contest.slots_per_validator": config.contest.slots_per_validator,
    }
    return {"schema": "flock_ray/contest_configuration/1", **{name: str(value) for name, value in values.items()}}


def terms_of(config: ArenaConfig) -> ContestTerms:
    """The terms of a configuration; `contest_terms` fills in what it does not know.

    Raises:
        ConfigError: a value that the terms refuse.
    """
    contest = config.contest
    try:
        return ContestTerms(
            creator="",
            configuration=sha256(canonical_json(contest_texts(config))),
            base_model=ZERO,
            model_config=ZERO,
            tokenizer=ZERO,
            start_adapter=ZERO,
            num_epochs=contest.days,
            num_voters=contest.num_voters,
            num_proposers=1,
            max_unsettled=contest.max_unsettled,
            pool=contest.pool * TOKEN,
            min_stake=contest.min_stake * TOKEN,
            quantile_bp=5_000,
            band_z_bp=basis_points(contest.band_z),
            band_floor=contest.band_floor,
            band_ceiling=contest.band_ceiling,
            harmful_factor=4,
            slash_fraction_bp=contest.slash_fraction,
            mechanism="contest",
            mechanism_parameters=contest_parameters(contest.parameters),
            rule=contest.rule,
            rule_parameters={},
            wire_format="dense",
            wire_format_parameters={},
            metric=contest.metric,
            scorer=contest.scorer,
            chunks=(ZERO,) * contest.days,
            final_rows=ZERO,
            rung_rows=tuple(contest.rung_rows),
            min_node_stake=contest.node_stake * TOKEN,
            windows=dict(contest.windows),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def agreed_terms(config: ArenaConfig, creator: str, reports: list[ContestInfo]) -> ContestTerms:
    """The terms of a contest of `creator` that every node agrees on.

    Raises:
        ModelError: nodes loaded different base models or rows.
    """
    terms = [contest_terms(terms_of(config), creator, report.hashes, report.adapter, report.data) for report in reports]
    for other, report in zip(terms, reports, strict=True):
        for name, value in terms[0].json().items():
            if other.json()[name] != value:
                raise ModelError(
                    f"node groups loaded different {name}: {reports[0].model_name} and {report.model_name} give {value}"
                    f" and {other.json()[name]}"
                )
    return terms[0]
