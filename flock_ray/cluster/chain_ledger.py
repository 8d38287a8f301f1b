"""The driver's side of the settlement chain: creating the task, settling epochs behind the training, paying out.

It talks to the one chain actor. The driver holds the creator's key only; members' transactions come signed from the
nodes, the relayer's key stays in the actor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import ray

from flock_ray.chain.eip712 import Domain
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.transactions import Table, claim, claim_many, create_task, deploy, open_task, start, transfer
from flock_ray.chain.values import (
    TOKEN,
    MemberView,
    TaskStatus,
    TaskView,
    TxReceipt,
)
from flock_ray.cluster.attestation import AnyRecord, Attestation, Settlement
from flock_ray.cluster.chain_connection import LOOK, ChainConnection
from flock_ray.cluster.interrupts import check_interrupted
from flock_ray.cluster.launch import chain_terms
from flock_ray.cluster.payout import PendingRewards, pending_rewards
from flock_ray.cluster.phases import Phases
from flock_ray.config import Config
from flock_ray.errors import ChainError, ChainUnreachableError, TaskClosedError
from flock_ray.protocol.epoch import skip
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.roster import Change
from flock_ray.protocol.seed import fixed_genesis
from flock_ray.protocol.state import MemberState, Scope, TaskState, Terms


class ChainLedger(ChainConnection):
    """The chain actor, seen from the driver."""

    def __init__(self, config: Config, run_dir: Path, accounts: dict[int, str]) -> None:
        """Connect, see `ChainConnection`; no task yet."""
        super().__init__(config, run_dir, accounts)
        self._open: dict[Any, int] = {}
        self._settled: dict[int, Settlement] = {}
        self._tables: dict[int, tuple[tuple[str, int], ...]] = {}  # rewards so far, of epochs after which all are paid
        self._task = ZERO
        self._asked: Sequence[Change] = ()  # requests of members from number `_first_asked` on, as they were last read
        self._first_asked = 0
        self._read_after: int | None = None  # number of the epoch that was settled last when they were read
        self._pending: PendingRewards | None = None

    @property
    def domain(self) -> Domain:
        """Chain, settlement contract and distributor."""
        return Domain(self._info.chain_id, self._info.settlement, self._info.distributor)

    @property
    def relayer(self) -> str:
        """The chain actor's account."""
        return str(self._info.relayer)

    @property
    def creator(self) -> str:
        """The account that creates the task and deploys the contracts."""
        return self._creator.address

    def facts(self) -> dict[str, Any]:
        """Backend, chain id, contract addresses; after the pay-out what is pending."""
        info = self._info
        contracts = {
            "token": info.token,
            "task": info.task,
            "settlement": info.settlement,
            "distributor": info.distributor,
            "vault": info.vault,
        }
        pending = {"rewards_pending": self._pending.facts()} if self._pending else {}
        chain = {"backend": info.backend, "chain_id": info.chain_id, "creator": self._creator.address}
        return {**chain, "contracts": contracts, **pending}

    def deploy(self) -> None:
        """Deploy the contracts, unless `chain.token`, `chain.task` and `chain.settlement` name deployed ones.

        The token begins with pool and stakes as its supply; the creator, who deploys it, gives the members theirs.
        """
        if self._info.settlement:
            return
        grants = [(account, self._brings(silo)) for silo, account in sorted(self._accounts.items())]
        supply = self._config.alliance.pool * TOKEN + sum(wei for _, wei in grants)
        context = self._ask("context", self._creator.address)
        raws, addresses = deploy(self._creator, context, supply, self._ask("timestamp"))
        self._ask("broadcast", raws, 0)
        self._ask("set_contracts", addresses)
        self._info = self._ask("info")
        self._ask("broadcast", transfer(self._creator, self._ask("context", self._creator.address), grants), 0)

    def _brings(self, silo: int) -> int:
        """Wei that the owner of a silo has in its wallet before it stakes, where this run deploys the token."""
        return self._config.alliance.min_stake * self._config.alliance.slots_per_member * TOKEN

    def create_task(self, terms: Terms, nodes: Phases) -> TaskState:
        """Create and start the task; what an earlier attempt did already is left as it is."""
        creator, seed = self._creator, fixed_genesis(self._config.seed)
        on_chain = chain_terms(self._config, terms)
        self._task = on_chain.task_id(creator.address, seed, terms.node_stake)
        view = self._ask("task_view", self._task)
        if view.status is TaskStatus.CLOSED or view.last_settled:
            raise ChainError(
                f"task 0x{self._task.hex()} of this configuration has settled epochs on this chain already; choose"
                " another seed, or go on with its run by resume=RUN_DIR"
            )
        if view.status is TaskStatus.NONE:
            context = self._ask("context", creator.address)
            view = self._send(create_task(creator, context, on_chain, seed, terms.node_stake))
        if joining := view.status is TaskStatus.JOINING:
            self._enrol_missing(nodes, self._first, {member.account for member in view.members})
            view = self._send(start(creator, self._ask("context", creator.address), self._task))
        while view.status is TaskStatus.STARTING:  # again if the block's hash was gone before it was taken
            self._ask("await_seed", self._task)
            view = self._send(open_task(creator, self._ask("context", creator.address), self._task))
        there = {member.account: member for member in view.members if not member.left_at}
        for silo in self._first:
            member = there.get(self._accounts[silo])
            if member is None:
                raise ChainError(
                    f"task 0x{self._task.hex()} on this chain started without member-{silo} ({self._accounts[silo]});"
                    " choose another seed"
                )
            if member.stake != member.slots * terms.min_stake:
                raise ChainError(
                    f"member {member.account} has {member.stake} wei locked for task 0x{self._task.hex()}, not the"
                    f" {member.slots * terms.min_stake} wei of its {member.slots} slots: a run counts with that; choose"
                    " another seed"
                )
        if not joining:  # an earlier attempt went further, and its folder may be gone
            nodes.enrol(self._task, creator.address, seed, self._first, {})
        scope = Scope(self._info.chain_id, bytes.fromhex(self._info.settlement[2:]), self._task)
        members = tuple(map(as_joined, view.first_members))
        state = TaskState.first(terms, scope, members, view.seed, view.changes_before_start)
        self._asked, self._first_asked, self._read_after = (), state.num_changes, 0  # what is asked now is not due soon
        return state

    @property
    def _first(self) -> list[int]:
        """Silos of the members that a task starts with."""
        return sorted(self._accounts)[: self._config.alliance.num_members]

    def ask_changes(self, joins: Collection[int], leaves: Collection[int], nodes: Phases) -> None:
        """Have the owners of silos ask to join the running task, or to leave it; who did already does not again.

        One after the other: whom the contract refuses stays what it is, and a line says so.
        """
        view: TaskView = self._ask("task_view", self._task)
        there = {member.account: member for member in view.members}
        staying = {account for account, member in there.items() if not member.leaving}
        for silo in sorted({*joins, *leaves}):
            account = self._accounts[silo]
            try:
                if silo in joins and account not in there:
                    self._broadcast(self._joins(nodes, silo), 0, one_by_one=True)
                elif silo in leaves and account in staying:
                    self._broadcast(nodes.resign(self._task, self._contexts([silo])), 0, one_by_one=True)
            except ChainUnreachableError:
                raise
            except ChainError as refused:
                what = "join" if silo in joins else "leave"
                self._tell(f"member-{silo} ({account}) asked to {what} and was refused: {refused}")

    def _joins(self, nodes: Phases, silo: int) -> dict[int, Sequence[bytes]]:
        """The transactions by which a candidate stakes and joins."""
        context = self._contexts([silo], self.creator)
        enrolments = nodes.enrol(self._task, self.creator, fixed_genesis(self._config.seed), [silo], context)
        return {silo: enrolment.transactions for silo, enrolment in enrolments.items()}

    def changes(self, state: TaskState) -> tuple[Sequence[Change], Sequence[MemberState]]:
        """The changes of members that are due in the epoch of `state` and not in it yet, and whom they let in.

        They were all asked for before the epoch `max_unsettled` + 2 before it was settled, so that the chain need not
        answer now.
        """
        if self._read_after is None or self._read_after < state.epoch - state.terms.max_unsettled - 2:
            self._asked, self._first_asked = self._ask("changes", self._task, state.num_changes), state.num_changes
            self._read_after = state.epoch - state.terms.max_unsettled - 2
        due = list(takewhile(lambda change: change.epoch <= state.epoch, self._waiting(state)))
        joined = [change.member for change in due if not change.leaves]
        return due, [as_joined(member) for member in self._ask("joined", self._task, joined)] if joined else []

    def _waiting(self, state: TaskState) -> Sequence[Change]:
        """The requests that have not reached `state`, as they were last read."""
        assert self._first_asked <= state.num_changes
        return self._asked[state.num_changes - self._first_asked :]

    def _look_at_changes(self, settled: int) -> None:
        """Read the requests once an epoch is settled; where the chain does not answer, `changes` does when it must."""
        with suppress(ChainUnreachableError):
            self._asked = self._get(self._actor.ask.remote("changes", self._task, self._first_asked), "changes")
            self._read_after = settled

    def _enrol_missing(self, nodes: Phases, silos: Sequence[int], there: Collection[str]) -> None:
        """Enrol the owners of silos; those not in the task yet stake, then join it in the order of their silos."""
        contexts = self._contexts([silo for silo in silos if self._accounts[silo] not in there], self.creator)
        enrolments = nodes.enrol(self._task, self.creator, fixed_genesis(self._config.seed), silos, contexts)
        signed = {silo: enrolments[silo].transactions for silo in contexts}
        self._broadcast({silo: raws[:-1] for silo, raws in signed.items()}, 0)
        self._broadcast({silo: raws[-1:] for silo, raws in signed.items()}, 0, one_by_one=True)

    def _send(self, transactions: list[bytes]) -> TaskView:
        """Have the creator's transactions mined; the task after them. Somebody else may have been first."""
        before: TaskView = self._ask("task_view", self._task)
        try:
            self._ask("broadcast", transactions, 0)
        except ChainError:
            if self._ask("task_view", self._task).status is before.status:
                raise
        view: TaskView = self._ask("task_view", self._task)
        return view

    def settle(self, state: TaskState, record: AnyRecord, attestation: Attestation) -> None:
        """Hand the report to the chain actor."""
        report, voters = attestation.report, record.roles.voters
        every = self._config.chain.claim_every
        if every and report.epoch % every == 0 and state.epochs_left != 1:
            self._tables[report.epoch] = record.leaves
        if self._read_after is None:  # a resumed run, which may have to settle before it goes on
            self._first_asked = state.num_changes
            self._look_at_changes(0)
        self._first_asked, self._asked = state.num_changes, self._waiting(state)
        work = state.roster.announced(self._asked).work(state.epoch)
        settle = self._actor.settle.options(concurrency_group="settle")
        call = report, attestation.seats(voters), attestation.packed(voters), work
        self._open[settle.remote(*call)] = report.epoch

    def settled(self, at_most_open: int) -> Iterator[Settlement]:
        """Collect receipts in the order of epochs; when none may stay open, only once all are as sure as configured.

        Raises:
            EpochAbandonedError: an open epoch was abandoned.
            ChainUnreachableError: the chain did not answer for longer than `chain.outage_patience` while this waited.
            ChainError: the contract refused a report, or a transaction was not mined in time.
        """
        for ref, epoch in list(self._open.items()):
            if len(self._open) > at_most_open:
                self._await(ref)
            elif not ray.wait([ref], timeout=0)[0]:
                break
            del self._open[ref]
            self._settled[epoch] = _settlement(epoch, self._get(ref, "settle"))
            yield self._settled[epoch]
            self._pay_everybody(epoch)
            self._look_at_changes(epoch)
        if at_most_open == 0:
            yield from self._moved().values()

    def follow(self, state: TaskState) -> TaskState:
        """The state that the chain is at, all epochs since `state` having been abandoned.

        Raises:
            TaskClosedError: too many in a row.
            ChainError: the chain tells another history.
        """
        self._open.clear()
        self._read_after = None
        view = self._ask("task_view", self._task)
        while state.epoch <= view.last_settled:
            state = self._skip(state)
        if state.seed != view.seed:
            raise ChainError(f"the chain is at another seed before epoch {state.epoch} than its abandoned epochs give")
        if view.status is TaskStatus.CLOSED and not state.finished:
            raise TaskClosedError(
                f"the task was closed after epoch {view.last_settled}: {view.skips} epochs in a row were abandoned;"
                " members claim what they earned and take out their stakes by hand"
            )
        return state

    def _skip(self, state: TaskState) -> TaskState:
        """The state after an abandoned epoch."""
        return skip(state)

    def _moved(self) -> dict[int, Settlement]:
        """Wait until the settlements are sure; those that another transaction brought about in the end."""
        ref = self._actor.confirm.options(concurrency_group="settle").remote()
        self._await(ref)
        now = {epoch: _settlement(epoch, receipt) for epoch, receipt in self._get(ref, "confirm").items()}
        return {
            epoch: settlement
            for epoch, settlement in now.items()
            if epoch in self._settled and settlement != self._settled[epoch]
        }

    def _await(self, ref: Any) -> None:
        """Wait for a settlement, tell what for, and give up after too long an outage."""
        while not ray.wait([ref], timeout=LOOK)[0]:
            check_interrupted()
            waiting = self._get(self._actor.ask.remote("waiting"), "waiting")
            if waiting is not None:
                what = f"the settlement of epoch {waiting.epoch}" if waiting.epoch else "the settlements"
                self.outage.wait(f"{what}: {waiting.reason}", waiting.unreachable, waiting.since)
        self.outage.over()

    def pay_out(self, state: TaskState, nodes: Phases) -> None:
        """Broadcast the members' claims and releases; what was collected already or does not pay yet is left out."""
        view: TaskView = self._ask("task_view", self._task)
        there = {member.account: member for member in view.members}
        owners = {silo: account for silo, account in self._accounts.items() if account in there}
        accounts = list(owners.values())
        claimed = self._ask("claimed", self._task, accounts)
        to_pool = self._ask("paid_to_pool", self._task, accounts)
        pooled = frozenset(silo for silo, account in owners.items() if account in to_pool)
        released = self._ask("releasable", self._task)
        locked = frozenset(silo for silo, account in owners.items() if released and there[account].stake)
        earned = {member.account: member.earned for member in state.members}
        paid = {silo: claimed[account] for silo, account in owners.items()}
        unpaid = {silo: left for silo, wei in paid.items() if (left := earned.get(owners[silo], 0) - wei) > 0}
        leaves = tuple((member.account, member.earned) for member in state.members if member.earned)
        roots = self._ask("reward_roots", self._task)
        self._pending = pending_rewards(leaves, unpaid, roots, self.domain, self._task)
        if self._pending:
            unpaid, leaves = {}, ()
        contexts = self._contexts(locked | unpaid.keys())
        self._broadcast(nodes.collect_earnings(contexts, leaves, paid, pooled, locked), state.epoch)

    def _pay_everybody(self, epoch: int) -> None:
        """Have everybody paid by the newest table whose root pays by now; tables before it are no longer of use."""
        if not self._tables:
            return
        paying = self._ask("reward_roots", self._task).paying
        for settled in sorted(self._tables, reverse=True):
            table = {reward_leaf(self.domain, self._task, *row): row for row in self._tables[settled]}
            tree = MerkleTree(table)
            if tree.root == paying:
                self._tables = {later: rows for later, rows in self._tables.items() if later > settled}
                if table:
                    self._claim_for_all(tree, table, settled, epoch)
                return

    def _claim_for_all(self, tree: MerkleTree, table: Table, settled: int, epoch: int) -> None:
        """Claim what was earned up to epoch `settled`, into the pool of whoever has delegators."""
        creator, task, accounts = self._creator, self._task, [account for account, _ in table.values()]
        try:
            pooled, paid = self._ask("paid_to_pool", task, accounts), self._ask("claimed", task, accounts)
            context = self._ask("context", creator.address)
            raws = claim_many(creator, context, task, tree, table)
            for leaf, (account, wei) in table.items():
                if account in pooled and wei > paid[account]:
                    following = replace(context, nonce=context.nonce + len(raws))
                    raws += claim(creator, following, task, account, wei, tree.proof(leaf), to_pool=True)
            self._ask("broadcast", raws, epoch)
        except ChainError as error:  # nothing is lost: members claim it at the end
            self._tell(f"the rewards up to epoch {settled} were not paid out yet: {error}")

    @property
    def pending(self) -> PendingRewards | None:
        """What `pay_out` had to leave."""
        return self._pending

    def adopt(self, state: TaskState) -> None:
        """Remember the task's id."""
        self._task = state.scope.task

    def balances(self, state: TaskState | None) -> dict[str, int]:
        """What is in the wallets, what is the members' own in the vault, and what is still to be claimed."""
        owned: dict[str, int] = self._ask("balances", list(self._accounts.values()))
        for silo, wei in self._pending.wei.items() if self._pending else ():
            owned[self._accounts[silo]] += wei
        return owned


def as_joined(member: MemberView) -> MemberState:
    """A member with what the task locks of its stake: nothing, if it left before the start."""
    return MemberState(member.account, member.slots, member.chain_tip, member.stake, delegated=member.delegated)


def _settlement(epoch: int, receipt: TxReceipt) -> Settlement:
    return Settlement(epoch, "0x" + receipt.hash.hex(), receipt.gas_used)
