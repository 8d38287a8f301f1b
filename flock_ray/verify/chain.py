"""The effect on chain: what the contracts store and logged, compared with the result of the signed messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from flock_ray.chain.abi import contract
from flock_ray.chain.failures import RefusedError
from flock_ray.chain.journal import Block, Genesis
from flock_ray.chain.keys import checksummed
from flock_ray.chain.node import ChainNode, Reverted
from flock_ray.chain.replay import ReplayedNode
from flock_ray.errors import VerificationError
from flock_ray.protocol.encoding import from_hex, parse_json, to_hex
from flock_ray.protocol.hashing import ZERO, word
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import MemberState, TaskState
from flock_ray.verify.accounting import RELAYER_PART
from flock_ray.verify.compare import require, require_equal
from flock_ray.verify.contest import DayReplay
from flock_ray.verify.epoch import Replay
from flock_ray.verify.folder import MAX_JOURNAL, RunFolder
from flock_ray.verify.genesis import TaskGenesis
from flock_ray.verify.report import Report

CLOSED = 4
_PAGE = 200  # changes that one call asks for
_TIES = (
    ("FlockToken", "minter", "EmissionController"),
    ("EmissionController", "token", "FlockToken"),
    ("TaskRegistry", "token", "FlockToken"),
    ("TaskRegistry", "settlement", "EpochSettlement"),
    ("TaskRegistry", "distributor", "RewardDistributor"),
    ("TaskRegistry", "vault", "StakeVault"),
    ("EpochSettlement", "registry", "TaskRegistry"),
    ("EpochSettlement", "distributor", "RewardDistributor"),
    ("RewardDistributor", "token", "FlockToken"),
    ("RewardDistributor", "registry", "TaskRegistry"),
    ("RewardDistributor", "settlement", "EpochSettlement"),
    ("RewardDistributor", "vault", "StakeVault"),
    ("StakeVault", "token", "FlockToken"),
    ("StakeVault", "registry", "TaskRegistry"),
    ("StakeVault", "distributor", "RewardDistributor"),
)
_EMPTY = ("delegated", "ownThawing", "thawing", "ownLocked", "delegatedLocked", "operatorRewards")
_BAD = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass(frozen=True)
class SettledEpoch:
    """A replayed epoch, its report, and the transaction (0x hex) and gas of its settlement as its receipt has them."""

    replay: Replay
    report: Report
    transaction: str | None
    gas_used: int | None


@dataclass(frozen=True)
class SettledDay:
    """As a `SettledEpoch`, of a contest."""

    replay: DayReplay
    report: Report
    transaction: str | None
    gas_used: int | None


Settled = SettledEpoch | SettledDay


def replayed_chain(folder: RunFolder) -> ReplayedNode:
    """The embedded chain of a run, rebuilt from its journal.

    Raises:
        VerificationError: its files cannot be read or replayed.
    """
    try:
        genesis = Genesis(**folder.json("chain/genesis.json"))
        lines = folder.read("chain/blocks.jsonl", MAX_JOURNAL).decode().splitlines()
        blocks = []
        for number, line in enumerate(lines, start=1):
            parse_json(line, 2)
            blocks.append(Block.from_line(line.encode()))
            require(blocks[-1].number == number, f"line {number} of chain/blocks.jsonl is not block {number}")
    except _BAD as error:
        raise VerificationError(f"chain/ does not read as a chain ({type(error).__name__})") from None
    return ReplayedNode(genesis, blocks)


class ChainCheck:
    """Reads the contracts of one task."""

    def __init__(self, node: ChainNode, genesis: TaskGenesis) -> None:
        """Read through `node`."""
        self._node, self._genesis = node, genesis
        self._task = genesis.state.scope.task
        others = (genesis.token, genesis.task, genesis.vault)
        require(None not in others, "task.json names no contracts, or not all of them")
        token, task, vault = (to_hex(address) for address in others if address is not None)
        self._at = {
            "FlockToken": token,
            "TaskRegistry": task,
            "StakeVault": vault,
            "EpochSettlement": to_hex(genesis.domain.settlement),
            "RewardDistributor": to_hex(genesis.domain.distributor),
        }
        self._at["EmissionController"] = self._read("TaskRegistry", "emission")

    def contracts(self) -> None:
        """The contracts refer to each other; on a replayed chain they are also this package's contracts."""
        genesis, node = self._genesis, self._node
        require_equal(genesis.domain.chain_id, node.chain_id, "chain id")
        if isinstance(node, ReplayedNode):
            created = {address.lower(): data for address, data in node.created.items()}
            for name, address in self._at.items():
                require(
                    created.get(address, b"").startswith(contract(name).bytecode),
                    f"the contract at {address} was not deployed as this package's {name}",
                )
        for name, tie, other in _TIES:
            require_equal(self._read(name, tie), self._at[other], f"{name}.{tie}")

    def terms(self) -> None:
        """The contract holds the terms, members and first seed that the run started from."""
        genesis, state = self._genesis, self._genesis.state
        terms, info = state.terms, self._info()
        alliance = genesis.config.get("alliance") or genesis.config.get("contest") or {}
        chain = genesis.config.get("chain") or {}
        expected = {
            "termsHash": to_hex(terms.digest()),
            "modelHash": to_hex(state.adapter),
            "targetSetHash": to_hex(terms.target_set),
            "pool": terms.pool,
            "minStake": terms.min_stake,
            "numVoters": terms.num_voters,
            "numProposers": terms.num_proposers,
            "numEpochs": terms.num_epochs,
            "maxUnsettled": alliance.get("max_unsettled"),
            "maxSkips": alliance.get("spare_reveals"),
            "endShareBps": 0,
            "epochDeadline": chain.get("epoch_deadline"),
            "joinWindow": chain.get("epoch_deadline"),
            "fixedGenesis": not genesis.on_rpc,
        }
        require_equal(info["terms"], expected, "terms on chain")
        require_equal(info["creator"], to_hex(genesis.creator), "creator on chain")
        require_equal(info["nodeStake"], genesis.node_stake, "least stake of a node on chain")
        require(info["numMembers"] >= len(state.members), "the contract has fewer members than the run")
        before = list(takewhile(lambda change: not change.epoch, self._changes(0, info["numChanges"])))
        claimed = [change.row for change in state.before_start]
        require_equal(claimed, [change.row for change in before], "changes before the start in task.json")
        gone = {change.member for change in before if change.leaves}
        for number, member in enumerate(state.members):
            on_chain = self._member(number)
            if number in gone:
                on_chain = replace(on_chain, stake=0, delegated=0)
            require_equal(member.joined_row, on_chain.joined_row, f"member {number} in task.json")
        require_equal(
            to_hex(self._single_log("TaskRegistry", "Started", self._task)[1][:32]),
            to_hex(state.seed),
            "first seed on chain",
        )

    def changes(self, state: TaskState) -> tuple[list[Change], list[MemberState]]:
        """The changes of members that are due in the epoch of `state` and not in it yet, and whom they let in."""
        asked = self._changes(state.num_changes, self._info()["numChanges"])
        due = list(takewhile(lambda change: change.epoch <= state.epoch, asked))
        return due, [self._member(change.member) for change in due if not change.leaves]

    def entered(self, state: TaskState, first: int) -> list[MemberState]:
        """The nodes of a contest from number `first` on that take part from the day of `state` on, as they entered.

        Those that were in when day `epoch` - 1 - `max_unsettled` was over, up to the first number that was not.
        """
        over, nodes = state.epoch - 1 - state.terms.max_unsettled, list[MemberState]()
        for number in range(first, self._info()["numMembers"] if over >= 1 else first):
            account = self._struct("TaskRegistry", "memberAt", self._task, number)["account"]
            came = self._logs("TaskRegistry", "Entered", self._task, _topic(account))
            if not came or self._block(came[0]) > self._block(self._end_of(over)):
                break
            nodes.append(self._member(number))
        return nodes

    def _end_of(self, epoch: int) -> tuple[bytes, bytes]:
        """(transaction, data) of the log by which an epoch was settled or abandoned."""
        names = ("EpochSettled", "EpochAbandoned")
        logs = [log for name in names for log in self._logs("EpochSettlement", name, self._task, word(epoch))]
        require(len(logs) == 1, f"epoch {epoch} was settled or abandoned {len(logs)} times instead of once")
        return logs[0]

    def _block(self, log: tuple[bytes, bytes]) -> int:
        """Number of the block that a log is in."""
        mined = self._node.receipt(log[0])
        assert mined is not None
        return mined[0].block

    def _changes(self, first: int, last: int) -> Iterator[Change]:
        for start in range(first, last, _PAGE):
            rows = self._read("TaskRegistry", "changesOf", self._task, start, min(start + _PAGE, last))
            yield from (Change(*row) for row in rows)

    def _member(self, number: int) -> MemberState:
        """A member as it joined."""
        on_chain = self._struct("TaskRegistry", "memberAt", self._task, number)
        account = checksummed(on_chain["account"][2:])
        event = "Joined" if on_chain["slots"] else "Entered"
        _, joined = self._single_log("TaskRegistry", event, self._task, _topic(account))
        _, locked = self._single_log("StakeVault", "Locked", self._task, _topic(account))
        stake, delegated = int.from_bytes(joined[32:64], "big"), int.from_bytes(locked[32:64], "big")
        tip = from_hex(on_chain["chainTip"])
        return MemberState(account, on_chain["slots"], tip, stake, delegated=delegated)

    def epoch(self, epoch: Settled) -> None:
        """The epoch was settled once, with its report, by its receipt's transaction and with exactly its slashes."""
        report = epoch.report
        what = f"epoch {report.epoch} on chain"
        transaction, data = self._single_log("EpochSettlement", "EpochSettled", self._task, word(report.epoch))
        logged = {
            "reportHash": data[:32], "rewardsRoot": data[32:64], "rewardsTotal": int.from_bytes(data[64:96], "big"),
            "modelHash": data[96:128], "recordHash": data[128:160],
        }  # fmt: skip
        expected = {
            "reportHash": report.hash, "rewardsRoot": report.rewards_root, "rewardsTotal": report.rewards_total,
            "modelHash": report.model_hash, "recordHash": report.record_hash,
        }  # fmt: skip
        require_equal(logged, expected, what)
        require_equal(epoch.transaction, to_hex(transaction), f"receipt of epoch {report.epoch}: transaction")
        mined = self._node.receipt(transaction)
        assert mined is not None
        require_equal(epoch.gas_used, mined[0].gas_used, f"receipt of epoch {report.epoch}: gas used")
        members = epoch.replay.state.members
        slashes = [
            (member, int.from_bytes(data[:32], "big"))
            for member in sorted({member for member, _ in report.slashes})
            for _, data in self._logs("TaskRegistry", "Slashed", self._task, word(report.epoch),
                                      _topic(members[member].account))
        ]  # fmt: skip
        require_equal(slashes, sorted(report.slashes, key=lambda slash: slash[0]), f"{what}: slashes")

    def abandoned(self, following: TaskState) -> None:
        """The epoch before `following` was abandoned, and that produced the seed of `following`."""
        epoch = following.epoch - 1
        _, data = self._single_log("EpochSettlement", "EpochAbandoned", self._task, word(epoch))
        require_equal(to_hex(data[:32]), to_hex(following.seed), f"seed after the abandoned epoch {epoch} on chain")

    def end(self, epochs: Sequence[Settled], following: TaskState) -> None:
        """Totals, root and seed after the last epoch.

        Args:
            epochs: the settled ones.
            following: the state after the last epoch, settled or abandoned.
        """
        report = epochs[-1].report if epochs else None
        last = following.epoch - 1
        expected = {
            "status": CLOSED,
            "lastSettled": last,
            "committed": report.rewards_total if report else 0,
            "rewardsRoot": to_hex(report.rewards_root if report else ZERO),
            "lastReport": to_hex(report.hash if report else ZERO),
            "seed": to_hex(following.seed),
            "poolLeft": 0,
            "escrow": 0,
            "skips": last - (report.epoch if report else 0),
        }
        require_equal(self._info(), expected, "task on chain")
        refund = int.from_bytes(self._single_log("TaskRegistry", "TaskClosed", self._task)[1], "big")
        require_equal(refund, following.pool_left + following.withheld, "refund to the creator")
        sunk = [int.from_bytes(data, "big") for _, data in self._logs("RewardDistributor", "Sunk", self._task)]
        require_equal(sunk, [following.escrow] if following.escrow else [], "escrow that went to the sink")

    def wallets(self, epochs: Sequence[Settled], following: TaskState) -> None:
        """No member claimed more than it earned; on a replayed chain, every token is accounted for."""
        members = following.members
        for number, member in enumerate(members):
            paid = self._read("RewardDistributor", "claimed", self._task, bytes.fromhex(member.account[2:]))
            require(paid <= member.earned, f"member {number} claimed {paid} wei of {member.earned} that it earned")
        if isinstance(self._node, ReplayedNode):
            self._tokens(epochs, following)

    def _tokens(self, epochs: Sequence[Settled], following: TaskState) -> None:
        """Every member claimed and got its stake back; all balances follow from the records, and no token is left."""
        genesis, in_all, in_vault = self._genesis, 0, 0
        for number, member in enumerate(following.members):
            account = bytes.fromhex(member.account[2:])
            paid = self._read("RewardDistributor", "claimed", self._task, account)
            require_equal(paid, member.earned, f"claims of member {number}")
            released = self._logs("TaskRegistry", "Released", self._task, _topic(member.account))
            stake = sum(int.from_bytes(data, "big") for _, data in released)
            require_equal(stake, member.stake, f"stake released to member {number}")
            pool = self._struct("StakeVault", "pool", account)
            require_equal(pool, {"own": stake, **dict.fromkeys(_EMPTY, 0)}, f"member {number} in the vault")
            owned = self._balance(account) + stake
            require_equal(owned, genesis.balance_after(member), f"tokens of member {number} at the end")
            in_all, in_vault = in_all + owned, in_vault + stake
        for outsider in genesis.balances.keys() - {member.account for member in following.members}:
            account = bytes.fromhex(outsider[2:])
            wallet, staked = self._balance(account), self._struct("StakeVault", "pool", account)["own"]
            require_equal(wallet + staked, genesis.balances[outsider], f"tokens of {outsider}, which never joined")
            in_all, in_vault = in_all + wallet + staked, in_vault + staked
        relayed = sum(amount // RELAYER_PART for epoch in epochs for _, amount in epoch.report.slashes)
        sunk = self._balance(bytes.fromhex(str(self._read("TaskRegistry", "sink"))[2:]))
        require_equal(sunk, following.escrow, "tokens of the sink")
        creator = self._balance(bytes.fromhex(self._info()["creator"][2:]))
        require_equal(self._balance(genesis.relayer), relayed, "tokens of the relayer")
        for name in ("TaskRegistry", "RewardDistributor"):
            require_equal(self._balance(bytes.fromhex(self._at[name][2:])), 0, f"tokens left in the {name}")
        require_equal(self._balance(bytes.fromhex(self._at["StakeVault"][2:])), in_vault, "tokens in the StakeVault")
        require_equal(creator, following.pool_left + following.withheld, "tokens of the creator")
        require_equal(
            self._read("FlockToken", "totalSupply"), in_all + relayed + creator + sunk, "tokens of all together"
        )

    def _info(self) -> dict[str, Any]:
        return self._struct("TaskRegistry", "taskInfo", self._task)

    def _balance(self, account: bytes) -> int:
        return int(self._read("FlockToken", "balanceOf", account))

    def _single_log(self, name: str, event: str, *topics: bytes) -> tuple[bytes, bytes]:
        """(transaction, data) of an event that must have been logged exactly once."""
        logs = self._logs(name, event, *topics)
        require(len(logs) == 1, f"{name} logged {event} {len(logs)} times instead of once")
        return logs[0]

    def _logs(self, name: str, event: str, *topics: bytes) -> list[tuple[bytes, bytes]]:
        return self._node.logs(self._at[name], [contract(name).event_topic(event), *topics])

    def _read(self, name: str, function: str, *args: Any) -> Any:
        """The single value that a call returns; an address as lower-case text."""
        compiled = contract(name)
        try:
            asker = self._genesis.state.members[0].account
            data = self._node.call(self._at[name], compiled.encode(function, *args), asker)
            (answer,) = compiled.decode(function, data)
        except (Reverted, RefusedError, ValueError):
            raise VerificationError(f"the contract at {self._at[name]} does not answer as a {name}") from None
        return answer.lower() if isinstance(answer, str) else answer

    def _struct(self, name: str, function: str, *args: Any) -> dict[str, Any]:
        return named(contract(name).output_components(function), self._read(name, function, *args))


def named(components: Sequence[Any], values: Sequence[Any]) -> dict[str, Any]:
    """A struct's values by name, nested, with bytes and addresses as lower-case hex."""
    result = {}
    for component, value in zip(components, values, strict=True):
        if "components" in component:
            value = named(component["components"], value)
        result[component["name"]] = (
            to_hex(value) if isinstance(value, bytes) else value.lower() if isinstance(value, str) else value
        )
    return result


def _topic(account: str) -> bytes:
    return bytes.fromhex(account[2:]).rjust(32, b"\0")
