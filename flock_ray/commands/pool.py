"""`flock-ray pool …`: an operator's pool, to its delegators."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.chain import calls
from flock_ray.chain.values import NOBODY
from flock_ray.chain.words import format_tokens, percent, utc
from flock_ray.commands.connection import Connection, connected
from flock_ray.commands.stake import lock_rows
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
                "own_locked_wei": pool.own_locked,
                "delegated_locked_wei": pool.delegated_locked,
                "own_free_wei": pool.own_free,
                "delegated_free_wei": pool.delegated_free,
                "operator_rewards_wei": pool.rewards,
                "locks": lock_rows(chain, operator),
                "creators": _creator_rows(chain, operator),
            }
        )


def _creator_rows(chain: Connection, operator: str) -> list[dict[str, object]]:
    calendar = chain.holdings.calendar
    return [
        {
            "creator": creator.account,
            "counts": creator.since <= calendar.epoch,
            "from_epoch": creator.since,
            "from_at": calendar.start_of(creator.since),
            "can_lock_wei": creator.lockable,
        }
        for creator in chain.holdings.creators(operator)
    ]


def creators(asked: Namespace) -> None:
    """Whose tasks a pool serves: those can lock delegated stake, all others the operator's own only."""
    with connected(asked) as chain:
        rows = _creator_rows(chain, asked.operator)
        others = chain.holdings.lockable(asked.operator, NOBODY)
        chain.output.facts({"operator": asked.operator, "others_can_lock_wei": others, "creators": rows})


def add_creator(asked: Namespace) -> None:
    """Let the pool serve the tasks of a creator."""
    with connected(asked) as chain:
        if sent := chain.send(calls.add_creator(chain.at, asked.creator)):
            epoch = chain.reader.ask("StakeVault", "servedFrom", chain.account, asked.creator)
            since = chain.holdings.calendar.start_of(epoch)
            chain.output.done(
                sent,
                f"The pool will serve the tasks of {asked.creator}",
                f"They can lock delegated stake from the vault's epoch {epoch} on, from {utc(since)}; whoever leaves"
                " the pool now is out by then",
                {"creator": asked.creator, "from_epoch": epoch, "from_at": since},
            )


def remove_creator(asked: Namespace) -> None:
    """Let the pool serve no more tasks of a creator."""
    with connected(asked) as chain:
        if not chain.reader.ask("StakeVault", "servedFrom", chain.account, asked.creator):
            raise ChainError(f"the pool of {chain.account} does not serve the creator {asked.creator}")
        if sent := chain.send(calls.remove_creator(chain.at, asked.creator)):
            told = f"The pool serves no more tasks of {asked.creator}"
            chain.output.done(sent, told, "Those that lock its stake already go on", {"creator": asked.creator})


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
