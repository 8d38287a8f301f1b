"""Which of the rewards pay when a run ends: a distributor with an activation delay makes them wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flock_ray.chain.eip712 import Domain
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.values import RewardRoots
from flock_ray.chain.words import format_tokens, utc


@dataclass(frozen=True)
class PendingRewards:
    """Rewards that cannot be claimed yet.

    Attributes:
        wei: {member: wei}.
        ready_at: chain time from which they can; None: a guardian disabled their root, or a correction replaced it.
    """

    wei: Mapping[int, int]
    ready_at: int | None

    def describe(self, run: Path) -> str:
        """One line for the operator of the run in that folder."""
        told = f"Rewards of {format_tokens(sum(self.wei.values()))} tokens are pending: "
        if self.ready_at is None:
            return told + "their root was disabled or corrected after it was settled"
        return told + f"they can be claimed from {utc(self.ready_at)} on, with resume={run}"

    def facts(self) -> dict[str, object]:
        """For the summary."""
        return {
            "wei": sum(self.wei.values()),
            "claimable_from": None if self.ready_at is None else utc(self.ready_at),
        }


def pending_rewards(
    leaves: Sequence[tuple[str, int]], unpaid: Mapping[int, int], roots: RewardRoots, domain: Domain, task: bytes
) -> PendingRewards | None:
    """What is not to be claimed by now; None when all is.

    Args:
        leaves: (account, wei earned so far): the table whose root the last settled report holds.
        unpaid: {member: wei} that it earned and was not paid.
        roots: of the task.
        domain: chain and distributor.
        task: id.
    """
    root = MerkleTree(reward_leaf(domain, task, account, wei) for account, wei in leaves).root
    if not unpaid or root == roots.paying:
        return None
    return PendingRewards(unpaid, roots.pending.get(root))
