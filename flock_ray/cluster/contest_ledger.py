"""A contest on a chain, or without one: validators join its task, training nodes enter it once it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.cluster.chain_ledger import ChainLedger, as_joined
from flock_ray.cluster.ledger import NoLedger
from flock_ray.cluster.phases import Phases
from flock_ray.cluster.rules import ContestRules
from flock_ray.config import Config
from flock_ray.errors import ChainError
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.hashing import ZERO
from flock_ray.protocol.roster import Change
from flock_ray.protocol.seed import fixed_genesis
from flock_ray.protocol.state import MemberState, TaskState, Terms


class NoContestLedger(NoLedger):
    """No chain: money is counted in the records only."""

    def __init__(self, config: Config, accounts: dict[int, str], rules: ContestRules) -> None:
        """Count stakes.

        Args:
            config: as `settled_as` gives it.
            accounts: {member: address}, of the validators and of the training nodes after them.
            rules: with the contest's rows.
        """
        self._validators, self._nodes = _divided(accounts, config)
        super().__init__(config, self._validators)
        self._rules = rules

    def create_task(self, terms: Terms, nodes: Phases) -> TaskState:
        """The first state, with the stakes of the terms."""
        validators = super().create_task(terms, nodes)
        nodes.enrol(validators.scope.task, self.creator, fixed_genesis(self._config.seed), self._nodes, {})
        entered = [MemberState(account, 0, ZERO, terms.node_stake) for _, account in sorted(self._nodes.items())]
        return _contest(validators, entered, self._rules)


class ContestLedger(ChainLedger):
    """The chain actor, seen from the driver of a contest."""

    def __init__(
        self, config: Config, run_dir: Path, accounts: dict[int, str], rules: ContestRules, node_stake: int
    ) -> None:
        """Connect; arguments as of `NoContestLedger` and `ChainLedger`, and wei that a training node enters with."""
        self._node_stake = node_stake
        super().__init__(config, run_dir, accounts)
        self._rules = rules
        _, self._nodes = _divided(accounts, config)

    def create_task(self, terms: Terms, nodes: Phases) -> TaskState:
        """Create and start the validators' task, and have the training nodes enter.

        Raises:
            ChainError: one of them is not in it, or with another stake; or what `ChainLedger` raises.
        """
        validators = super().create_task(terms, nodes)
        there = {node.account for node in self._entries()}
        self._enrol_missing(nodes, sorted(self._nodes), there)
        entered = self._entries()
        stakes = {node.account: node.stake for node in entered}
        for silo, account in sorted(self._nodes.items()):
            if (stake := stakes.get(account)) != terms.node_stake:
                raise ChainError(
                    f"member-{silo} ({account}) entered task 0x{self._task.hex()} with {stake or 0} wei, not with the"
                    f" {terms.node_stake} wei that a run counts with; choose another seed"
                )
        return _contest(validators, entered, self._rules)

    def changes(self, state: TaskState) -> tuple[Sequence[Change], Sequence[MemberState]]:
        """The changes that are due, and whom they let in; after these the nodes that entered meanwhile.

        A node that entered before a day was settled takes part `max_unsettled` + 1 days after that day.
        """
        due, joined = super().changes(state)
        settled = state.epoch - 1 - state.terms.max_unsettled  # no later day need be settled by now
        if settled < 1:
            return due, joined
        entered = self._ask("entered", self._task, len(state.members) + len(joined), settled)
        return due, [*joined, *map(as_joined, entered)]

    def _entries(self) -> list[MemberState]:
        """The nodes that entered, in their order, with what they entered with."""
        numbers = [entry.index for entry in self._ask("entries", self._task)]
        return [as_joined(node) for node in self._ask("joined", self._task, numbers)]

    def _brings(self, silo: int) -> int:
        return self._node_stake if silo in self._nodes else super()._brings(silo)

    def pay_out(self, state: TaskState, nodes: Phases) -> None:
        """As an alliance's; those whose keys others hold are paid by the creator's claims."""
        super().pay_out(state, nodes)
        earned = [(member.account, member.earned) for member in state.members if member.earned]
        table = {reward_leaf(self.domain, self._task, *row): row for row in earned}
        others = {leaf: row for leaf, row in table.items() if row[0] not in self._accounts.values()}
        if others and not self.pending:
            self._claim_for_all(MerkleTree(table), others, state.terms.num_epochs, state.epoch)

    def _skip(self, state: TaskState) -> TaskState:
        assert isinstance(state, ContestState)
        return self._rules.skip(state)


def _divided(accounts: dict[int, str], config: Config) -> tuple[dict[int, str], dict[int, str]]:
    """Accounts of validators, and of training nodes."""
    first = config.alliance.num_members
    validators = {number: account for number, account in accounts.items() if number < first}
    return validators, {number: account for number, account in accounts.items() if number >= first}


def _contest(validators: TaskState, entered: Sequence[MemberState], rules: ContestRules) -> ContestState:
    """The first state: that of the validators' task, with the training nodes after them."""
    members = (*validators.members, *entered)
    return rules.first(validators.terms, validators.scope, members, validators.seed, validators.before_start)
