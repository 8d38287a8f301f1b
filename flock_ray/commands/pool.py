"""`flock-ray pool …`: an operator's pool, to its delegators."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.chain import calls
from flock_ray.chain.words import format_tokens, percent, utc
from flock_ray.commands.connection import connected
from flock_ray.errors import ChainError


def show(asked: Namespace) -> None:
    """What a delegator looks at before it delegates, and while it does."""
    with connected(asked) as chain:
        operator, calendar = asked.operator, chain.holdings.calendar
        pool = chain.holdings.pool(operator)
        changes = pool.commission_from > calendar.epoch
        chain.output.facts(
            {
                "operator": operator,
                "accepts_delegations": pool.accepts,
                "commission_bps": pool.commission,
                "next_commission_bps": pool.next_commission if changes else None,
                "next_commission_from_at": calendar.start_of(pool.commission_from) if changes else None,
                "own_stake_wei": pool.own,
                "delegated_stake_wei": pool.delegated,
                "thawing_own_wei": pool.own_thawing,
                "thawing_delegated_wei": pool.thawing,
                "locked_wei": pool.locked,
                "free_wei": pool.free,
                "operator_rewards_wei": pool.rewards,
                "locks": [
                    {"task": "0x" + lock.task.hex(), "locked_wei": lock.amount}
                    for lock in chain.holdings.locks(operator)
                ],
            }
        )


def commission(asked: Namespace) -> None:
    """Set the commission on the delegators' rewards."""
    with connected(asked) as chain:
        if sent := chain.send(calls.set_commission(chain.at, asked.percent)):
            calendar = chain.holdings.calendar
            since = calendar.start_of(chain.holdings.pool(chain.account).commission_from)
            chain.output.done(
                sent,
                f"Set the commission to {percent(asked.percent)}",
                f"It counts from {utc(since)} on; whoever leaves the pool now is out by then",
                {"commission_bps": asked.percent, "from_at": since, "epoch": calendar.epoch},
            )


def accept(asked: Namespace) -> None:
    """Accept new delegations from now on, or no more."""
    with connected(asked) as chain:
        accepts = asked.accepts == "on"
        if sent := chain.send(calls.set_acceptance(chain.at, accepts)):
            what = "The pool accepts new delegations" if accepts else "The pool accepts no new delegations"
            then = "" if accepts else "Delegations that it has stay"
            chain.output.done(sent, what, then, {"accepts_delegations": accepts})


def claim(asked: Namespace) -> None:
    """Take the operator's rewards and commission out of the pool."""
    with connected(asked) as chain:
        amount = chain.holdings.pool(chain.account).rewards
        if not amount:
            raise ChainError(
                f"the pool of {chain.account} has no rewards for it; it is paid with: flock-ray task claim"
            )
        if sent := chain.send(calls.claim_operator_rewards(chain.at)):
            chain.output.done(sent, f"Claimed {format_tokens(amount)} tokens", "", {"amount_wei": amount})
