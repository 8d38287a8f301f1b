"""`flock-ray account …`: what an account owns."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.commands.connection import connected


def show(asked: Namespace) -> None:
    """Everything that an account owns, but for rewards of tasks that nobody has claimed for it."""
    with connected(asked) as chain:
        account = asked.account
        pool, delegations = chain.holdings.pool(account), chain.holdings.delegations(account)
        wallet = chain.wallet(account)
        thawing = sum(request.amount for item in delegations for request in item.requests)
        delegated, rewards = (sum(getattr(item, name) for item in delegations) for name in ("amount", "rewards"))
        owned = wallet + pool.own + pool.own_thawing + pool.rewards + delegated + thawing + rewards
        chain.output.facts(
            {
                "account": account,
                "balance_coin": chain.node.balance(account),
                "tokens_wei": wallet,
                "own_stake_wei": pool.own,
                "own_stake_thawing_wei": pool.own_thawing,
                "rewards_as_operator_wei": pool.rewards,
                "delegated_wei": delegated,
                "delegated_thawing_wei": thawing,
                "rewards_as_delegator_wei": rewards,
                "in_all_wei": owned,
            }
        )
