"""What the epoch loop needs of a chain, and the stand-in where there is none (`chain.backend=none`, for benchmarks)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from flock_ray.chain.eip712 import Domain
from flock_ray.chain.keys import run_signer
from flock_ray.chain.values import NOBODY, TOKEN
from flock_ray.cluster.attestation import AnyRecord, Attestation, Settlement
from flock_ray.cluster.launch import chain_terms
from flock_ray.cluster.payout import PendingRewards
from flock_ray.cluster.phases import Phases
from flock_ray.config import Config
from flock_ray.protocol.roster import Change
from flock_ray.protocol.seed import fixed_genesis
from flock_ray.protocol.state import MemberState, Scope, TaskState, Terms


class Ledger(Protocol):
    """What the epoch loop needs of a chain."""

    @property
    def domain(self) -> Domain:
        """Chain and settlement contract that signatures are bound to."""

    @property
    def relayer(self) -> str:
        """Account that reports name for the relayer's share."""

    @property
    def creator(self) -> str:
        """Account that creates the task."""

    def facts(self) -> dict[str, Any]:
        """Backend, chain id and contracts, for the summary."""

    def create_task(self, terms: Terms, nodes: Phases) -> TaskState:
        """Create the task, have every member stake, start it; returns the state of its first epoch."""

    def ask_changes(self, joins: Collection[int], leaves: Collection[int], nodes: Phases) -> None:
        """Have the owners of silos ask to join a running task, or to leave it; who did already does not again."""

    def changes(self, state: TaskState) -> tuple[Sequence[Change], Sequence[MemberState]]:
        """The changes of members that are due in the epoch of `state` and not in it yet, and whom they let in.

        Call it when all epochs but `max_unsettled` are settled: later requests are due later.
        """

    def settle(self, state: TaskState, record: AnyRecord, attestation: Attestation) -> None:
        """Begin to settle the epoch that `state` starts; returns at once."""

    def settled(self, at_most_open: int) -> Iterable[Settlement]:
        """What has been settled since the last call; waits until no more than `at_most_open` epochs are open.

        Raises:
            EpochAbandonedError: an open epoch was abandoned; `follow` tells how the task goes on.
        """

    def follow(self, state: TaskState) -> TaskState:
        """The state after the epochs that were abandoned from `state` on; what was to be settled is forgotten."""

    def pay_out(self, state: TaskState, nodes: Phases) -> None:
        """After the last epoch: members claim what they earned and have their stakes released, if they may by now."""

    @property
    def pending(self) -> PendingRewards | None:
        """Rewards that the pay-out had to leave."""

    def adopt(self, state: TaskState) -> None:
        """Go on with a task that an earlier run created."""

    def balances(self, state: TaskState | None) -> dict[str, int]:
        """{account of an owner: wei that it has}, before the task was created (None) or after the pay-out."""


class NoLedger:
    """No chain at all: money is counted in the records only."""

    def __init__(self, config: Config, accounts: dict[int, str]) -> None:
        """Count stakes of `accounts`, {silo: address}, as the configuration gives them."""
        self._config, self._accounts = config, accounts
        self.creator = run_signer(config.seed, "creator").address
        self._open: list[Settlement] = []

    @property
    def domain(self) -> Domain:
        """Chain 0 and no contract."""
        return Domain(0, NOBODY, NOBODY)

    @property
    def relayer(self) -> str:
        """Nobody."""
        return NOBODY

    def facts(self) -> dict[str, Any]:
        """The backend's name, and the account that would be the creator's on an embedded chain."""
        return {"backend": "none", "chain_id": 0, "creator": self.creator, "contracts": {}}

    def create_task(self, terms: Terms, nodes: Phases) -> TaskState:
        """The first state, with the stakes of the configuration."""
        seed, slots = fixed_genesis(self._config.seed), self._config.alliance.slots_per_member
        task = chain_terms(self._config, terms).task_id(self.creator, seed, terms.node_stake)
        enrolments = nodes.enrol(task, self.creator, seed, self._accounts, {})
        members = tuple(
            MemberState(self._accounts[silo], slots, enrolment.tip, terms.min_stake * slots)
            for silo, enrolment in enrolments.items()
        )
        return TaskState.first(terms, Scope(0, bytes(20), task), members, seed)

    def ask_changes(self, joins: Collection[int], leaves: Collection[int], nodes: Phases) -> None:
        """There is nobody to ask."""
        raise AssertionError("the configuration lets nobody come or go without a chain")

    def changes(self, state: TaskState) -> tuple[Sequence[Change], Sequence[MemberState]]:
        """Only whom slashes made to leave."""
        return [change for change in state.leaving if change.epoch <= state.epoch], ()

    def settle(self, state: TaskState, record: AnyRecord, attestation: Attestation) -> None:
        """Nothing to send."""
        self._open.append(Settlement(attestation.report.epoch, None, None))

    def settled(self, at_most_open: int) -> Iterable[Settlement]:
        """Everything at once."""
        done, self._open = self._open, []
        return done

    def follow(self, state: TaskState) -> TaskState:
        """Nobody abandons an epoch."""
        return state

    def pay_out(self, state: TaskState, nodes: Phases) -> None:
        """Nobody to pay."""

    @property
    def pending(self) -> None:
        """Nothing."""
        return None

    def adopt(self, state: TaskState) -> None:
        """Nothing to remember."""

    def balances(self, state: TaskState | None) -> dict[str, int]:
        """The stake at first; stake and rewards at the end."""
        alliance = self._config.alliance
        stake = alliance.min_stake * alliance.slots_per_member * TOKEN
        if state is None:
            return dict.fromkeys(self._accounts.values(), stake)
        return {member.account: member.stake + member.earned for member in state.members}
