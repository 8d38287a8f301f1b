"""What a contest starts from before its first day: read from `task.json`, and compared with `config.yaml`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from flock_ray.errors import RunDirectoryError, VerificationError
from flock_ray.protocol.contest_state import ContestState, ContestTerms
from flock_ray.protocol.encoding import canonical_json, from_hex, to_hex
from flock_ray.protocol.hashing import ZERO, keccak, sha256, tag, word
from flock_ray.protocol.message import is_count
from flock_ray.protocol.roster import Roster
from flock_ray.protocol.state import MemberState, Scope
from flock_ray.verify.compare import require, require_equal
from flock_ray.verify.draw import genesis_seed
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.genesis import (
    MAX_EPOCHS,
    MAX_MEMBERS,
    MAX_SLOTS,
    TaskGenesis,
    as_basis_points,
    as_count,
    as_integers,
    as_text,
    part_of,
)
from flock_ray.verify.membership import changes_before_start, first_slots
from flock_ray.verify.report import SigningDomain

CONTEST_SCHEMA = "flock_ray/contest_terms/1"
_TOKEN = 10**18
_BAD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True)
class ContestGenesis(TaskGenesis):
    """The created contest; its members are validators, then training nodes without slots."""

    state: ContestState

    @property
    def num_validators(self) -> int:
        """Members with slots."""
        return sum(member.slots > 0 for member in self.state.members)

    @property
    def node_stake(self) -> int:
        """What a training node enters with at least."""
        return self.state.terms.min_node_stake

    @property
    def task_id(self) -> bytes:
        """Id of the contest's task: as an alliance's, with set B as its target set, and with the stake of a node."""
        terms, contest = self.state.terms, part_of(self.config, "contest")
        deadline, run_seed = part_of(self.config, "chain").get("epoch_deadline"), self.config.get("seed")
        validators = contest.get("validators")
        counts = (
            terms.pool, terms.min_stake, contest.get("slots_per_validator"), terms.num_voters, terms.num_proposers,
            validators, validators, terms.num_epochs, terms.max_unsettled, contest.get("spare_reveals"), 0, deadline,
            deadline, int(not self.on_rpc), run_seed,
        )  # fmt: skip
        known = [count for count in counts if isinstance(count, int) and not isinstance(count, bool) and count >= 0]
        require(len(known) == len(counts), "config.yaml lacks a number that the contest's id is made of")
        *held, seed = known
        hashes = terms.digest() + self.state.adapter + terms.final_rows
        agreed = keccak(self.creator.rjust(32, b"\0") + hashes + b"".join(map(word, held)))
        agreed = keccak(agreed + word(self.node_stake))
        return keccak(tag("flock_ray/task/2") + agreed + genesis_seed(seed))


def is_contest(folder: RunFolder) -> bool:
    """Whether a folder holds the run of a contest."""
    terms = folder.json("task.json").get("terms")
    return isinstance(terms, dict) and terms.get("schema") == CONTEST_SCHEMA


def read_contest_genesis(folder: RunFolder) -> ContestGenesis:
    """Read `task.json` and `config.yaml` of a contest and check that they agree.

    Raises:
        RunDirectoryError: the run was made by another version.
        VerificationError: they contradict each other.
    """
    value, config = folder.json("task.json"), folder.config()
    if value.get("schema") != "flock_ray/run/3":
        raise RunDirectoryError(f"task.json is of schema {value.get('schema')!r}, which this version cannot verify")
    try:
        genesis = _read(value, config)
    except _BAD as error:
        raise VerificationError(f"task.json does not read as a contest ({type(error).__name__}: {error})") from None
    _check(genesis)
    return genesis


def _read(value: dict[str, Any], config: dict[str, Any]) -> ContestGenesis:
    terms = read_contest_terms(value["terms"])
    scope = Scope(as_count(value["chain_id"]), from_hex(value["contract"], 20), from_hex(value["task"]))
    members = tuple(map(MemberState.read_joined, value["members"]))
    require(0 < len(members) <= MAX_MEMBERS, f"a contest has 1 to {MAX_MEMBERS} members")
    require(all(member.slots <= MAX_SLOTS for member in members), f"a member has at most {MAX_SLOTS} slots")
    before_start, seed = changes_before_start(value["before_start"]), from_hex(value["seed"])
    contracts = {name: bytes.fromhex(text[2:]) for name, text in value["contracts"].items()}
    slots = first_slots(members, before_start)
    state = replace(ContestState.first(terms, scope, members, seed, before_start), roster=Roster(slots))
    if contracts:
        require_equal(contracts["settlement"], scope.contract, "task.json contracts.settlement")
    return ContestGenesis(
        state,
        SigningDomain(scope.chain_id, scope.contract, contracts.get("distributor", bytes(20))),
        from_hex(value["creator"].lower(), 20),
        from_hex(value["relayer"].lower(), 20),
        contracts.get("token"),
        contracts.get("task"),
        contracts.get("vault"),
        {as_text(account): as_count(wei) for account, wei in value["balances"].items()},
        {str(name): str(text) for name, text in value["configuration"].items()},
        config,
    )


def read_contest_terms(value: dict[str, Any]) -> ContestTerms:
    """A contest's terms from their JSON value.

    Raises:
        KeyError, TypeError, ValueError: they are none.
    """
    if set(value) != {"schema", *(item.name for item in fields(ContestTerms))}:
        raise ValueError("the terms have other fields")
    read: dict[str, Callable[[Any], Any]] = {
        "bytes": from_hex,
        "int": as_count,
        "str": as_text,
        "Mapping[str, int]": as_integers,
        "tuple[bytes, ...]": lambda digests: tuple(map(from_hex, digests)),
        "tuple[int, ...]": lambda counts: tuple(map(as_count, counts)),
    }
    return ContestTerms(**{item.name: read[str(item.type)](value[item.name]) for item in fields(ContestTerms)})


def _check(genesis: ContestGenesis) -> None:
    state, terms, members = genesis.state, genesis.state.terms, genesis.state.members
    require_equal(terms.creator.lower(), to_hex(genesis.creator), "creator in the terms")
    require(0 < terms.num_epochs <= MAX_EPOCHS and terms.band_floor > 0, "the terms hold a count out of its bounds")
    require(max(terms.quantile_bp, terms.slash_fraction_bp) <= 10_000, "the terms hold a share above 10,000 bp")
    require(len({member.account for member in members}) == len(members), "an account is a member twice")
    require(all(member.delegated <= member.stake for member in members), "delegators back more than a member's stake")
    validators = members[: genesis.num_validators]
    require(all(member.slots for member in validators), "validators come first, then training nodes")
    for number, member in enumerate(members):
        least = member.slots * terms.min_stake if member.slots else terms.min_node_stake
        require(member.stake >= least, f"member {number} staked less than it had to")
        revealing = member.slots > 0 or member.chain_tip == ZERO
        require(revealing, f"member {number} is a training node, and has a hash chain")
    stakes = {member.account: member.stake for member in members}
    require_equal(genesis.balances, stakes, "balances in task.json")
    require_equal(len(genesis.balances), len(stakes), "number of balances in task.json")
    agreed = sha256(canonical_json(genesis.configuration))
    require_equal(to_hex(terms.configuration), to_hex(agreed), "configuration hash")
    run_seed = genesis.config.get("seed")
    require(is_count(run_seed), "config.yaml names no seed")
    assert isinstance(run_seed, int)
    what = "task id of this creator, these terms and this seed"
    require_equal(to_hex(state.scope.task), to_hex(genesis.task_id), what)
    if not genesis.on_rpc:
        require_equal(to_hex(state.seed), to_hex(genesis_seed(run_seed)), "seed of day 1")
    _check_config(genesis)


def _check_config(genesis: ContestGenesis) -> None:
    """The settings in `config.yaml` are those that the members agreed on."""
    terms, contest = genesis.state.terms, part_of(genesis.config, "contest")
    for name, text in genesis.configuration.items():
        group, _, key = name.partition(".")
        if name != "schema":
            claimed = part_of(genesis.config, group).get(key)
            require(text == str(claimed), f"config.yaml {name}: claimed {claimed!r}, the members agreed on {text!r}")
    claimed = {
        "days": contest.get("days"),
        "num_voters": contest.get("num_voters"),
        "max_unsettled": contest.get("max_unsettled"),
        "pool": contest.get("pool"),
        "min_stake": contest.get("min_stake"),
        "node_stake": contest.get("node_stake"),
        "slash_fraction": contest.get("slash_fraction"),
        "band_z": as_basis_points(contest.get("band_z")),
        "band_floor": contest.get("band_floor"),
        "band_ceiling": contest.get("band_ceiling"),
        "metric": contest.get("metric"),
        "scorer": contest.get("scorer"),
        "rule": contest.get("rule"),
        "rung_rows": contest.get("rung_rows"),
        "windows": contest.get("windows"),
        "validators": contest.get("validators"),
        "nodes": contest.get("nodes"),
    }
    agreed = {
        "days": terms.num_epochs,
        "num_voters": terms.num_voters,
        "max_unsettled": terms.max_unsettled,
        "pool": terms.pool // _TOKEN,
        "min_stake": terms.min_stake // _TOKEN,
        "node_stake": terms.min_node_stake // _TOKEN,
        "slash_fraction": terms.slash_fraction_bp,
        "band_z": terms.band_z_bp,
        "band_floor": terms.band_floor,
        "band_ceiling": terms.band_ceiling,
        "metric": terms.metric,
        "scorer": terms.scorer,
        "rule": terms.rule,
        "rung_rows": list(terms.rung_rows),
        "windows": dict(terms.windows),
        "validators": genesis.num_validators,
        "nodes": len(genesis.state.members) - genesis.num_validators,
    }
    require_equal(claimed, agreed, "config.yaml contest")
    for name, number in part_of(contest, "parameters").items():
        require_equal(number, terms.mechanism_parameters.get(name), f"config.yaml contest.parameters.{name}")
