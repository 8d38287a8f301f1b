"""`flock-ray stake …`: an operator's own stake."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.chain import calls
from flock_ray.chain.words import format_tokens, utc
from flock_ray.commands.connection import Connection, connected
from flock_ray.commands.requests import request_rows, tell_withdrawn, thawed


def show(asked: Namespace) -> None:
    """Own stake: where it is locked, and what thaws."""
    with connected(asked) as chain:
        pool = chain.holdings.pool(asked.account)
        chain.output.facts(
            {
                "account": asked.account,
                "stake_wei": pool.own,
                "thawing_wei": pool.own_thawing,
                "locked_wei": pool.own_locked,
                "free_wei": pool.own_free,
                "locks": lock_rows(chain, asked.account),
                "asked_for": request_rows(chain.holdings.own_requests(asked.account)),
            }
        )


def lock_rows(chain: Connection, operator: str) -> list[dict[str, object]]:
    """Which tasks lock stake of a pool, for a table or JSON."""
    return [
        {"task": "0x" + lock.task.hex(), "own_locked_wei": lock.own, "delegated_locked_wei": lock.delegated}
        for lock in chain.holdings.locks(operator)
    ]


def add(asked: Namespace) -> None:
    """Add to the account's own stake."""
    with connected(asked) as chain:
        amount = chain.wallet(chain.account) if asked.all else asked.amount
        if sent := chain.send(*chain.with_approval(calls.stake(chain.at, amount), amount)):
            pool = chain.holdings.pool(chain.account)
            chain.output.done(
                sent,
                f"Staked {format_tokens(amount)} tokens",
                f"{format_tokens(pool.own)} tokens of own stake, {format_tokens(pool.own_free)} of it are free; next:"
                " flock-ray task join",
                {"amount_wei": amount, "stake_wei": pool.own, "free_wei": pool.own_free},
            )


def unstake(asked: Namespace) -> None:
    """Ask for own stake back."""
    with connected(asked) as chain:
        amount = chain.holdings.pool(chain.account).own if asked.all else asked.amount
        if sent := chain.send(calls.unstake(chain.at, amount)):
            calendar = chain.holdings.calendar
            ready_at = calendar.thawed_at(calendar.epoch)
            chain.output.done(
                sent,
                f"Asked for {format_tokens(amount)} tokens of own stake",
                f"They thaw until {utc(ready_at)}, then: flock-ray stake withdraw",
                {"amount_wei": amount, "epoch": calendar.epoch, "ready_at": ready_at},
            )


def withdraw(asked: Namespace) -> None:
    """Take out own stake that has thawed."""
    with connected(asked) as chain:
        requests = chain.holdings.own_requests(chain.account)
        due = thawed(requests, chain.reader.timestamp())
        ended = chain.send_each([calls.withdraw_stake(chain.at, request.epoch) for request in due])
        tell_withdrawn(chain, "stake", requests, due, ended)
