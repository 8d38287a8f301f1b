"""Checks of a configuration: ranges of single fields, conditions across fields, and the odds of the committee."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from math import inf
from operator import attrgetter

from flock_ray.config.choices import ChainBackend, Engine, Keep
from flock_ray.config.schema import AdversaryConfig, AllianceConfig, Config, behaviours, chain_urls, evaluated_others
from flock_ray.errors import CaptureRiskError, ConfigError
from flock_ray.protocol.capture import CaptureRisk, capture_risk
from flock_ray.protocol.mechanisms import MECHANISMS
from flock_ray.protocol.parameters import Parameter, filled
from flock_ray.protocol.roles import quorum

CAPTURE_LIMIT = 1e-3
YEAR = 365 * 86_400
MAX_LIFE = 10 * YEAR  # seconds in which all epochs are settled or abandoned (TaskTerms.MAX_LIFE)
MAX_SCALE = 1_000_000  # of a dishonest behaviour
MAX_TOKENS = 2**96 // 10**18  # whole ones in the 96 bits that the contracts count with

_RANGES: dict[tuple[int, float], tuple[str, ...]] = {
    (1, inf): (
        "alliance.num_members", "alliance.hosts", "alliance.num_proposers", "alliance.num_epochs",
        "alliance.max_unsettled", "alliance.band_floor", "alliance.harmful_factor",
        "alliance.spare_reveals", "training.steps", "training.batch_size", "training.cohort_tokens",
        "lora.rank", "lora.alpha", "report.answer_tokens",
        "data.sequence_length", "data.heldout_tokens", "data.heldout_sequences", "cluster.nodes",
        "cluster.workers_per_node", "cluster.cpus_per_worker", "cluster.threads_per_worker", "chain.max_fee_gwei",
    ),
    (1, MAX_TOKENS): ("alliance.pool", "alliance.min_stake"),
    (1, 7 * 86_400): ("chain.epoch_deadline",),  # the contracts' limit
    (0, inf): (
        "alliance.band_z", "alliance.candidates", "data.max_bad_rows", "training.weight_decay",
        "training.zero_persistence_threshold", "chain.chain_id", "chain.claim_every",
    ),
    (0, 1): ("alliance.quantile", "alliance.assumed_malicious", "adversary.share", "cluster.gpus_per_worker"),
    (0, 3): ("training.zero_stage",),
    (0, 10_000): ("mechanism.slash_fraction",),
    (0, 65_535): ("chain.port",),
    (0, 2**63 - 1): ("seed",),
    (1, 96): ("alliance.num_voters",),  # the contracts' limit
    (1, 256): ("alliance.slots_per_member",),
}  # fmt: skip
_OF_TERMS = ("quantile", "band_z", "band_floor", "band_ceiling", "harmful_factor")
"""What has no effect under a mechanism with rules of its own."""

_ABOVE_0_AND_BELOW: dict[str, float] = {
    "training.learning_rate": inf,
    "training.max_grad_norm": inf,
    "chain.confirmation_timeout": inf,
    "chain.outage_patience": inf,
    "cluster.placement_timeout": inf,
    "cluster.load_timeout": inf,
    "cluster.phase_floor": inf,
    "cluster.head_timeout": inf,
    "data.heldout_fraction": 1,
}


def basis_points(value: float) -> int:
    """A fraction as integer basis points: what is signed holds no floats."""
    return round(value * 10_000)


def committee_risk(config: Config) -> CaptureRisk:
    """Chances of capture for this committee, with floor(`alliance.assumed_malicious` * slots) dishonest slots."""
    alliance = config.alliance
    slots = alliance.num_members * alliance.slots_per_member
    malicious = basis_points(alliance.assumed_malicious) * slots // 10_000
    return capture_risk(slots, malicious, alliance.num_voters, basis_points(alliance.quantile))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _out_of_range(config: Config) -> Iterator[ConfigError]:
    for (low, high), keys in _RANGES.items():
        limits = f"{low} or more" if high == inf else f"between {low} and {high}"
        for key in keys:
            value = attrgetter(key)(config)
            if not (low <= value <= high and value < inf):
                yield ConfigError(f"{key} is {value}; it must be {limits}")
    for key, limit in _ABOVE_0_AND_BELOW.items():
        value = attrgetter(key)(config)
        if not 0 < value < limit:
            limits = "above 0 and finite" if limit == inf else f"above 0 and below {limit}"
            yield ConfigError(f"{key} is {value}; it must be {limits}")


def _check_parameters(where: str, declared: Mapping[str, Parameter], given: Mapping[str, int]) -> None:
    try:
        filled(declared, given, where)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_membership(config: Config) -> None:
    """Who joins or leaves when is a candidate, or a member by then, in an epoch of the task; and there is a chain."""
    alliance = config.alliance
    silos = alliance.num_members + alliance.candidates
    settled = config.chain.backend is not ChainBackend.none
    _require(settled or not alliance.candidates, "alliance.candidates needs a chain, on which they can join")
    members, since = dict.fromkeys(range(alliance.num_members), 0), alliance.max_unsettled + 2
    for name, planned in (("joins", alliance.joins), ("leaves", alliance.leaves)):
        asked = sorted((change.epoch, silo) for change in planned for silo in change.silos)
        _require(settled or not asked, f"alliance.{name} needs a chain, on which members ask for it")
        for epoch, silo in asked:
            where = f"alliance.{name} names silo {silo} in epoch {epoch}"
            last = alliance.num_epochs - since
            late = f"what is asked for in an epoch counts {since} later, so that it must be 1 to {last}"
            _require(1 <= epoch <= last, f"{where}; {late}")
            if name == "joins":
                candidates = (
                    f"candidates are {alliance.num_members} to {silos - 1}" if alliance.candidates else "there are none"
                )
                _require(alliance.num_members <= silo < silos, f"{where}; {candidates} (alliance.candidates)")
                _require(silo not in members, f"{where}; it joined before")
                members[silo] = epoch
            else:
                _require(silo in members, f"{where}, which is no member, or left before")
                _require(epoch > members.pop(silo), f"{where}, before it has joined")


def _check_date(config: Config) -> None:
    text = config.data.template_date
    with suppress(ValueError):
        date.fromisoformat(text)
        return
    raise ConfigError(f"data.template_date is {text!r}; it must be a date such as 2025-01-01")


def check(config: Config) -> None:
    """Refuse values that do not fit together.

    Raises:
        ConfigError: the text names the key, its value and the valid values.
        CaptureRiskError: dishonest seats would capture a committee too often.
    """
    for error in problems(config):
        raise error


def problems(config: Config) -> list[ConfigError]:
    """All values that are out of range; if none is, all that do not fit together. See `check`."""
    if found := list(_out_of_range(config)):
        return found
    for part in (_check_sizes, _check_date, _check_engine, _check_names, _check_chain, _check_membership, _check_risk):
        try:
            part(config)
        except ConfigError as error:
            found.append(error)
    return found


def _check_sizes(config: Config) -> None:
    alliance, cluster = config.alliance, config.cluster
    slots = alliance.num_members * alliance.slots_per_member
    seats = alliance.num_voters + alliance.num_proposers
    _require(
        seats <= slots,
        f"alliance.num_voters + alliance.num_proposers = {alliance.num_voters} + {alliance.num_proposers} seats are"
        f" more than the {slots} slots of {alliance.num_members} members; lower them or raise alliance.num_members",
    )
    _require(
        alliance.hosts <= alliance.num_members,
        f"alliance.hosts is {alliance.hosts}; it must be at most alliance.num_members = {alliance.num_members}",
    )
    _require(
        cluster.nodes <= alliance.hosts,
        f"cluster.nodes is {cluster.nodes}; it must be at most alliance.hosts = {alliance.hosts}:"
        " a node carries whole hosts",
    )
    _require(
        alliance.band_floor <= alliance.band_ceiling,
        f"alliance.band_ceiling is {alliance.band_ceiling}; it must be at least alliance.band_floor ="
        f" {alliance.band_floor}",
    )


def _check_engine(config: Config) -> None:
    """An engine that can do what the cluster and the stage of ZeRO ask of it."""
    cluster = config.cluster
    torch_only = config.training.engine is Engine.torch
    _require(
        not torch_only or cluster.workers_per_node == 1,
        f"training.engine=torch trains on one worker, and cluster.workers_per_node is {cluster.workers_per_node};"
        " take training.engine=deepspeed or auto",
    )
    _require(
        not torch_only or config.training.zero_stage == 0,
        f"training.zero_stage is {config.training.zero_stage}, and training.engine=torch shards nothing; take"
        " training.engine=deepspeed or auto",
    )


def _check_names(config: Config) -> None:
    """The mechanism and its parameters, and who cheats."""
    alliance = config.alliance
    mechanism = config.mechanism
    _require(
        mechanism.name in MECHANISMS,
        f"mechanism.name is {mechanism.name!r}; it must be one of {', '.join(MECHANISMS)}",
    )
    _check_adversary(config)
    last = alliance.num_members + alliance.candidates - 1
    strangers = [silo for silo in behaviours(config) if not 0 <= silo <= last]
    _require(not strangers, f"adversary.members names {strangers}; silos are 0 to {last}")
    kind = MECHANISMS[mechanism.name]
    _check_parameters("mechanism.parameters", kind.parameters, mechanism.parameters)
    _require(
        alliance.num_proposers >= kind.fewest_proposers,
        f"alliance.num_proposers is {alliance.num_proposers}; mechanism.name={mechanism.name} needs at least"
        f" {kind.fewest_proposers}, to tell them apart",
    )
    for key in () if kind.judges_by_terms else _OF_TERMS:
        value, default = getattr(alliance, key), getattr(AllianceConfig(), key)
        _require(
            value == default,
            f"alliance.{key} is {value}, which mechanism.name={mechanism.name} does not look at; leave it at {default}",
        )
    _require(
        mechanism.parameters.get("solvent", 1) == 1 or config.chain.backend is ChainBackend.none,
        "mechanism.parameters.solvent=0 promises more than the pool holds; it needs chain.backend=none",
    )


def check_scale(adversary: AdversaryConfig) -> None:
    """Refuse a strength of dishonest behaviours that is out of range."""
    scale = adversary.scale
    _require(
        scale is None or abs(scale) <= MAX_SCALE,
        f"adversary.scale is {scale}; it must be between {-MAX_SCALE} and {MAX_SCALE}",
    )


def _check_adversary(config: Config) -> None:
    """One way to say who cheats, and a strength that can be."""
    adversary = config.adversary
    check_scale(adversary)
    _require(
        not adversary.share or not adversary.members,
        f"adversary.share is {adversary.share:g}, and adversary.members names who cheats; give one of them",
    )
    _require(
        not adversary.vote or not isinstance(adversary.members, dict),
        "adversary.vote goes with a list of members; where adversary.members names the behaviour of each, add the vote"
        " there: {3:gaussian+lazy_vote}",
    )
    _require(
        not adversary.share or adversary.attack != "none" or bool(adversary.vote),
        f"adversary.share is {adversary.share:g} of the members, who do nothing wrong; name adversary.attack or"
        " adversary.vote",
    )
    _require(
        not adversary.share or bool(behaviours(config)),
        f"adversary.share is {adversary.share:g}, which of {config.alliance.num_members} members is none; raise it",
    )


def _check_chain(config: Config) -> None:
    """The chain's address, the life of a task on it, and what a store keeps."""
    alliance = config.alliance
    _require(
        bool(chain_urls(config.chain)) or config.chain.backend is not ChainBackend.rpc,
        "chain.backend=rpc needs chain.url, the address of the chain's RPC",
    )
    deadline, late = config.chain.epoch_deadline, alliance.max_unsettled + 1
    _require(
        alliance.num_epochs * deadline * late <= MAX_LIFE,
        f"alliance.num_epochs is {alliance.num_epochs}: with chain.epoch_deadline = {deadline} s and"
        f" alliance.max_unsettled = {alliance.max_unsettled} the task could hold stakes for"
        f" {alliance.num_epochs * deadline * late // YEAR} years, more than {MAX_LIFE // YEAR}; lower"
        " chain.epoch_deadline",
    )
    evaluated_others(alliance)
    store = config.store
    _require(
        store.keep is not Keep.adapter or not store.url or not store.shared,
        "store.keep=adapter would remove nothing: other runs may use store.url; add store.shared=false if none does",
    )


def _check_risk(config: Config) -> None:
    alliance = config.alliance
    risk = committee_risk(config)
    if max(risk.median, risk.quorum) > CAPTURE_LIMIT and not alliance.force:
        raise CaptureRiskError(
            f"alliance.num_voters is {alliance.num_voters} (quorum {quorum(alliance.num_voters)}): with"
            f" {risk.num_malicious} of {risk.num_slots} slots dishonest (alliance.assumed_malicious ="
            f" {alliance.assumed_malicious:g}) they have their median captured with probability {risk.median:.2g} and"
            f" their quorum with {risk.quorum:.2g} an epoch, above {CAPTURE_LIMIT:g}; draw more voters or set"
            " alliance.force=true"
        )


def describe_risk(config: Config) -> str:
    """The committee's odds as a line of text."""
    risk, alliance = committee_risk(config), config.alliance
    return (
        f"Committee: {alliance.num_voters} voters (quorum {quorum(alliance.num_voters)}) and {alliance.num_proposers}"
        f" proposers of {risk.num_slots} slots; with {risk.num_malicious} of them dishonest, an epoch's median is"
        f" captured with probability {risk.median:.2g}, its quorum with {risk.quorum:.2g}, blocked with"
        f" {risk.blocked:.2g}"
    )
