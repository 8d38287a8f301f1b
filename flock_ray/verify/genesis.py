"""What a task starts from before its first epoch, and the single hash (the anchor) that commits to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from flock_ray.aggregation.registry import RULES, require_usable, rule_of
from flock_ray.errors import ConfigError, RunDirectoryError, VerificationError
from flock_ray.protocol.encoding import Json, canonical_json, from_hex, to_hex
from flock_ray.protocol.hashing import ZERO, keccak, sha256, tag, word
from flock_ray.protocol.message import is_count
from flock_ray.protocol.parameters import Parameter
from flock_ray.protocol.roster import Roster
from flock_ray.protocol.state import MemberState, Scope, TaskState, Terms
from flock_ray.verify.compare import require, require_equal
from flock_ray.verify.draw import genesis_seed
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.membership import changes_before_start, first_slots
from flock_ray.verify.payments import PAYMENTS
from flock_ray.verify.report import SigningDomain
from flock_ray.wire_format.frozen_a import FREEZE_A
from flock_ray.wire_format.registry import WIRE_FORMATS

MAX_EPOCHS = 100_000
MAX_MEMBERS = 10_000
MAX_SLOTS = 256
_TOKEN = 10**18
_BAD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True)
class TaskGenesis:
    """The created task.

    Attributes:
        state: of epoch 1.
        domain: chain and contracts that signatures are bound to.
        creator: 20-byte account that created the task.
        relayer: 20-byte account that the reports name.
        token, task, vault: 20-byte addresses of the other contracts; None without a chain.
        balances: {account: wei} that the owners of the run's silos had before anybody joined, in their wallets and as
            their own stake in the vault, in the order of the silos.
        configuration: settings that shape the training, by dotted name; `state.terms.configuration` is their hash.
        config: `config.yaml`, with all settings of the run.
    """

    state: TaskState
    domain: SigningDomain
    creator: bytes
    relayer: bytes
    token: bytes | None
    task: bytes | None
    vault: bytes | None
    balances: dict[str, int]
    configuration: dict[str, str]
    config: dict[str, Any]

    @property
    def has_chain(self) -> bool:
        """Whether the run settled on a chain."""
        return self.domain != SigningDomain(0, bytes(20), bytes(20))

    @property
    def on_rpc(self) -> bool:
        """Whether that chain is an external one, behind an RPC; there the contract also draws the first seed."""
        chain = part_of(self.config, "chain")
        return self.has_chain and bool(chain.get("url") or chain.get("backend") == "rpc")

    @property
    def node_stake(self) -> int:
        """Least stake of a node on the chain, wei; 0: the task takes none."""
        return 0

    @property
    def task_id(self) -> bytes:
        """Id of the task: keccak(tag, keccak(creator, all terms that the contract holds), seed of the run)."""
        terms, alliance, chain = self.state.terms, part_of(self.config, "alliance"), part_of(self.config, "chain")
        run_seed, deadline = self.config.get("seed"), chain.get("epoch_deadline")
        numbers = (alliance.get("num_members"), alliance.get("candidates"))
        most = sum(numbers) if all(map(is_count, numbers)) else None  # type: ignore[arg-type]
        counts = (
            terms.pool, terms.min_stake, alliance.get("slots_per_member"), terms.num_voters, terms.num_proposers,
            alliance.get("num_members"), most, terms.num_epochs, terms.max_unsettled,
            alliance.get("spare_reveals"), 0, deadline, deadline, int(not self.on_rpc), run_seed,
        )  # fmt: skip
        known = [count for count in counts if isinstance(count, int) and not isinstance(count, bool) and count >= 0]
        require(len(known) == len(counts), "config.yaml lacks a number that the task's id is made of")
        *held, seed = known
        hashes = terms.digest() + self.state.adapter + ZERO
        agreed = keccak(self.creator.rjust(32, b"\0") + hashes + b"".join(map(word, held)))
        return keccak(tag("flock_ray/task/2") + agreed + genesis_seed(seed))

    def balance_after(self, member: MemberState) -> int:
        """Tokens that an owner of a silo has, in its wallet and the vault, once it has claimed all it earned, wei."""
        return self.balances[member.account] - member.slashed + member.earned

    @property
    def anchor(self) -> bytes:
        """SHA-256 of everything that the members agreed on before the first epoch, their accounts included."""
        state = self.state
        value: dict[str, Json] = {
            "schema": "flock_ray/anchor/3",
            "chain_id": self.domain.chain_id,
            "settlement": to_hex(self.domain.settlement),
            "distributor": to_hex(self.domain.distributor),
            "task": to_hex(state.scope.task),
            "terms": to_hex(state.terms.digest()),
            "seed": to_hex(state.seed),
            "members": [member.joined_row for member in state.members],
            "slots": [list(slot) for slot in state.roster.slots],
        }
        return sha256(canonical_json(value))


def read_genesis(folder: RunFolder) -> TaskGenesis:
    """Read `task.json` and `config.yaml` and check that they agree.

    Raises:
        RunDirectoryError: the run was made by a version that did not store the terms.
        VerificationError: they contradict each other.
    """
    value, config = folder.json("task.json"), folder.config()
    if value.get("schema") != "flock_ray/run/3":
        raise RunDirectoryError(
            f"task.json is of schema {value.get('schema')!r}: the run was made by another version, whose runs this one"
            " cannot verify"
        )
    try:
        genesis = _read(value, config)
    except _BAD as error:
        raise VerificationError(f"task.json does not read as a task ({type(error).__name__}: {error})") from None
    _check(genesis)
    return genesis


def _read(value: dict[str, Any], config: dict[str, Any]) -> TaskGenesis:
    terms = _terms(value["terms"])
    scope = Scope(as_count(value["chain_id"]), from_hex(value["contract"], 20), from_hex(value["task"]))
    members = tuple(map(MemberState.read_joined, value["members"]))
    require(0 < len(members) <= MAX_MEMBERS, f"a task has 1 to {MAX_MEMBERS} members")
    require(all(0 < member.slots <= MAX_SLOTS for member in members), f"a member has 1 to {MAX_SLOTS} slots")
    before_start, seed = changes_before_start(value["before_start"]), from_hex(value["seed"])
    contracts = {name: bytes.fromhex(text[2:]) for name, text in value["contracts"].items()}
    slots = first_slots(members, before_start)
    state = replace(TaskState.first(terms, scope, members, seed, before_start), roster=Roster(slots))
    configuration = {str(name): str(text) for name, text in value["configuration"].items()}
    if contracts:
        require_equal(contracts["settlement"], scope.contract, "task.json contracts.settlement")
    return TaskGenesis(
        state,
        SigningDomain(scope.chain_id, scope.contract, contracts.get("distributor", bytes(20))),
        from_hex(value["creator"].lower(), 20),
        from_hex(value["relayer"].lower(), 20),
        contracts.get("token"),
        contracts.get("task"),
        contracts.get("vault"),
        {as_text(account): as_count(wei) for account, wei in value["balances"].items()},
        configuration,
        config,
    )


def _terms(value: dict[str, Any]) -> Terms:
    if value.get("schema") != "flock_ray/terms/2":
        raise ValueError("the terms have another schema")
    if set(value) != {"schema", *(item.name for item in fields(Terms))}:
        raise ValueError("the terms have other fields")
    read: dict[str, Callable[[object], Any]] = {"bytes": from_hex, "int": as_count, "str": as_text}
    read["Mapping[str, int]"] = as_integers
    return Terms(**{item.name: read[str(item.type)](value[item.name]) for item in fields(Terms)})


def as_count(value: object) -> int:
    """The value if it is a count, else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 128:
        raise ValueError("expected a count")
    return value


def as_integer(value: object) -> int:
    """The value if it is an integer, else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 128:
        raise ValueError("expected an integer")
    return value


def as_text(value: object) -> str:
    """The value if it is a text, else ValueError."""
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def as_integers(value: object) -> dict[str, int]:
    """The value if it holds integers by name, else ValueError."""
    if not isinstance(value, dict):
        raise ValueError("expected integers by name")
    return {as_text(name): as_integer(number) for name, number in value.items()}


def _check(genesis: TaskGenesis) -> None:
    state, config = genesis.state, genesis.config
    terms, members = state.terms, state.members
    require(terms.mechanism in PAYMENTS, f"the terms name a mechanism {terms.mechanism!r}, which does not exist")
    require(terms.rule in RULES, f"the terms name a rule {terms.rule!r}, which does not exist")
    named = f"the terms name a wire format {terms.wire_format!r}, which does not exist"
    require(terms.wire_format in WIRE_FORMATS, named)
    for what, parameters, declared in (
        ("mechanism", terms.mechanism_parameters, PAYMENTS[terms.mechanism].bounds),
        ("rule", terms.rule_parameters, _bounds(RULES[terms.rule].parameters)),
        ("wire format", terms.wire_format_parameters, _of_wire_format(terms)),
    ):
        require_equal(sorted(parameters), sorted(declared), f"names of the {what}'s parameters in the terms")
        for name, (low, high) in declared.items():
            require(low <= parameters[name] <= high, f"the terms' {name} of the {what} is out of its bounds")
    freeze_a = FREEZE_A in terms.wire_format_parameters
    agreed = genesis.configuration.get("lora.freeze_a", "False")
    require_equal(agreed, str(freeze_a), "lora.freeze_a of the configuration, by the terms")
    require_equal(part_of(config, "lora").get("freeze_a", False), freeze_a, "config.yaml lora.freeze_a")
    try:
        require_usable(rule_of(terms), terms.rule, terms.num_proposers, freeze_a)
    except ConfigError as error:
        raise VerificationError(f"the terms name a rule that cannot be used: {error}") from None
    require_equal(terms.creator.lower(), to_hex(genesis.creator), "creator in the terms")
    shares = (terms.quantile_bp, terms.slash_fraction_bp)
    require(max(shares) <= 10_000, "the terms hold a share above 10,000 basis points")
    require(0 < terms.num_epochs <= MAX_EPOCHS and terms.band_floor > 0, "the terms hold a count out of its bounds")
    require(len({member.account for member in members}) == len(members), "an account is a member twice")
    require(all(member.delegated <= member.stake for member in members), "delegators back more than a member's stake")
    gone = {change.member for change in state.before_start if change.leaves}
    for number, member in enumerate(members):
        if number not in gone:
            require(member.stake >= member.slots * terms.min_stake, f"member {number} staked less than its slots cost")
    if not genesis.has_chain:
        stakes = {member.account: member.stake for member in members}
        require_equal(genesis.balances, stakes, "balances in task.json")
        require_equal(len(genesis.balances), len(stakes), "number of balances in task.json")
    require_equal(
        to_hex(terms.configuration), to_hex(sha256(canonical_json(genesis.configuration))), "configuration hash"
    )
    run_seed = config.get("seed")
    require(is_count(run_seed), "config.yaml names no seed")
    assert isinstance(run_seed, int)
    require_equal(
        to_hex(state.scope.task), to_hex(genesis.task_id), "task id of this creator, these terms and this seed"
    )
    if not genesis.on_rpc:
        require_equal(to_hex(state.seed), to_hex(genesis_seed(run_seed)), "seed of epoch 1")
    _check_config(genesis)


def _bounds(declared: Mapping[str, Parameter]) -> dict[str, tuple[int, int]]:
    return {name: (parameter.low, parameter.high) for name, parameter in declared.items()}


def _of_wire_format(terms: Terms) -> dict[str, tuple[int, int]]:
    frozen = {FREEZE_A: (1, 1)} if FREEZE_A in terms.wire_format_parameters else {}
    return _bounds(WIRE_FORMATS[terms.wire_format].parameters) | frozen


def _check_config(genesis: TaskGenesis) -> None:
    """The training and task settings in `config.yaml` are those that the members agreed on."""
    config, terms = genesis.config, genesis.state.terms
    for name, text in genesis.configuration.items():
        group, _, key = name.partition(".")
        if name == "schema":
            continue
        claimed = part_of(config, group).get(key)
        require(
            text == str(claimed) or (isinstance(claimed, str) and text.endswith(f".{claimed}")),  # enums: Engine.auto
            f"config.yaml {name}: claimed {claimed!r}, the members agreed on {text!r}",
        )
    alliance, mechanism, aggregation = (part_of(config, group) for group in ("alliance", "mechanism", "aggregation"))
    claimed = {
        "num_epochs": alliance.get("num_epochs"),
        "num_voters": alliance.get("num_voters"),
        "num_proposers": alliance.get("num_proposers"),
        "max_unsettled": alliance.get("max_unsettled"),
        "pool": alliance.get("pool"),
        "min_stake": alliance.get("min_stake"),
        "band_floor": alliance.get("band_floor"),
        "band_ceiling": alliance.get("band_ceiling"),
        "harmful_factor": alliance.get("harmful_factor"),
        "quantile_bp": as_basis_points(alliance.get("quantile")),
        "band_z_bp": as_basis_points(alliance.get("band_z")),
        "mechanism": mechanism.get("name"),
        "slash_fraction_bp": mechanism.get("slash_fraction"),
        "rule": aggregation.get("rule"),
        "wire_format": part_of(config, "wire_format").get("name"),
    }
    wei = {"pool": terms.pool // _TOKEN, "min_stake": terms.min_stake // _TOKEN}
    agreed = {name: wei.get(name, getattr(terms, name, None)) for name in claimed}
    require_equal(claimed, agreed, "config.yaml")
    for group, parameters in (
        ("mechanism", terms.mechanism_parameters),
        ("aggregation", terms.rule_parameters),
        ("wire_format", terms.wire_format_parameters),
    ):
        for name, number in part_of(part_of(config, group), "parameters").items():
            require_equal(number, parameters.get(name), f"config.yaml {group}.parameters.{name}")
    _check_members(genesis, alliance.get("num_members"), alliance.get("candidates"), alliance.get("slots_per_member"))


def _check_members(genesis: TaskGenesis, least: object, candidates: object, slots: object) -> None:
    """The run's own first members are in the task with their slots; as many others as candidates may be in it, too."""
    state = genesis.state
    gone = {change.member for change in state.before_start if change.leaves}
    stayed = {member.account: member.slots for number, member in enumerate(state.members) if number not in gone}
    require(is_count(least) and is_count(candidates), "config.yaml names no number of members, or of candidates")
    assert isinstance(least, int) and isinstance(candidates, int)
    require(
        least <= len(stayed) <= least + candidates,
        f"config.yaml num_members: claimed {least} and {candidates} candidates, the task starts with {len(stayed)}",
    )
    for account in list(genesis.balances)[:least]:
        require_equal(stayed.get(account), slots, f"config.yaml slots_per_member, of {account}")


def part_of(config: dict[str, Any], group: str) -> dict[str, Any]:
    """A group of a configuration; empty where there is none."""
    part = config.get(group)
    return part if isinstance(part, dict) else {}


def as_basis_points(value: object) -> int | None:
    """A fraction as basis points; None if it is none."""
    return round(value * 10_000) if isinstance(value, int | float) and abs(value) < 10**6 else None
