"""A contest on a chain, or without one: validators are the members of its task, training nodes are paid by leaves.

The contracts know validators only. What a training node stakes stands in the records until `TaskRegistry.enter` holds
it; `_entered` is the one place that then sends the nodes' transactions and reads what the contract holds of them.
"""

from __future__ import annotations

from pathlib import Path

from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.cluster.ledger import NoLedger
from flock_ray.cluster.phases import Phases
from flock_ray.cluster.rules import ContestRules
from flock_ray.config import Config
from flock_ray.protocol.contest_state import ContestState, ContestTerms
from flock_ray.protocol.hashing import ZERO
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
        return _contest(validators, _entered(validators, self.creator, self._config, self._nodes, nodes), self._rules)


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
        """Create and start the validators' task, and add the training nodes."""
        validators = super().create_task(terms, nodes)
        return _contest(validators, _entered(validators, self.creator, self._config, self._nodes, nodes), self._rules)

    def _brings(self, silo: int) -> int:
        return self._node_stake if silo in self._nodes else super()._brings(silo)

    def pay_out(self, state: TaskState, nodes: Phases) -> None:
        """As an alliance's; training nodes, which are no members on chain, are paid by the creator's claims."""
        super().pay_out(state, nodes)
        earned = [(member.account, member.earned) for member in state.members if member.earned]
        table = {reward_leaf(self.domain, self._task, *row): row for row in earned}
        own = {leaf: row for leaf, row in table.items() if row[0] in self._nodes.values()}
        if own and not self.pending:
            self._claim_for_all(MerkleTree(table), own, state.terms.num_epochs, state.epoch)

    def _skip(self, state: TaskState) -> TaskState:
        assert isinstance(state, ContestState)
        return self._rules.skip(state)


def _divided(accounts: dict[int, str], config: Config) -> tuple[dict[int, str], dict[int, str]]:
    """Accounts of validators, and of training nodes."""
    first = config.alliance.num_members
    validators = {number: account for number, account in accounts.items() if number < first}
    return validators, {number: account for number, account in accounts.items() if number >= first}


def _entered(
    validators: TaskState, creator: str, config: Config, accounts: dict[int, str], nodes: Phases
) -> tuple[MemberState, ...]:
    """The training nodes as they enter: without slots, each with the minimum stake of the terms."""
    terms = validators.terms
    assert isinstance(terms, ContestTerms)
    nodes.enrol(validators.scope.task, creator, fixed_genesis(config.seed), accounts, {})
    return tuple(MemberState(account, 0, ZERO, terms.min_node_stake) for _, account in sorted(accounts.items()))


def _contest(validators: TaskState, entered: tuple[MemberState, ...], rules: ContestRules) -> ContestState:
    """The first state: that of the validators' task, with the training nodes after them."""
    members = (*validators.members, *entered)
    return rules.first(validators.terms, validators.scope, members, validators.seed, validators.before_start)
