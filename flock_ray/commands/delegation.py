"""`flock-ray delegation …`: stake that an account delegates to operators."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.chain import calls
from flock_ray.chain.holdings import Delegation
from flock_ray.chain.words import format_tokens, utc
from flock_ray.commands.connection import Connection, connected
from flock_ray.commands.requests import request_rows, tell_withdrawn, thawed
from flock_ray.errors import ChainError, FundsError


def show(asked: Namespace) -> None:
    """Where an account's delegated stake is, what locks it, what it earned, what thaws."""
    with connected(asked) as chain:
        found = chain.holdings.delegations(asked.account)
        chain.output.facts(
            {
                "account": asked.account,
                "delegated_wei": sum(item.amount for item in found),
                "rewards_wei": sum(item.rewards for item in found),
                "earned_so_far_wei": sum(item.rewards + item.claimed for item in found),
                "delegations": [_row(chain, item) for item in found],
                "locks": [row for item in found for row in _lock_rows(chain, item)],
                "asked_for": [
                    {"operator": item.operator, **row} for item in found for row in request_rows(item.requests)
                ],
            }
        )


def _row(chain: Connection, item: Delegation) -> dict[str, object]:
    pool = chain.holdings.pool(item.operator)
    return {
        "operator": item.operator,
        "stake_wei": item.amount,
        "delegated_in_pool_wei": pool.delegated,
        "locked_of_that_wei": min(pool.delegated, pool.delegated_locked),
        "free_of_that_wei": pool.delegated_free,
        "earns": item.earning,
        "rewards_wei": item.rewards,
        "claimed_wei": item.claimed,
    }


def _lock_rows(chain: Connection, item: Delegation) -> list[dict[str, object]]:
    """The tasks that lock delegated stake of the operator's pool, and the account's part, active and thawing alike."""
    pool, mine = chain.holdings.pool(item.operator), item.amount + sum(request.amount for request in item.requests)
    whole = pool.delegated + pool.thawing
    return [
        {
            "operator": item.operator,
            "task": "0x" + lock.task.hex(),
            "own_locked_wei": lock.own,
            "delegated_locked_wei": lock.delegated,
            "your_part_wei": lock.delegated * mine // whole,
        }
        for lock in (chain.holdings.locks(item.operator) if mine else [])
        if lock.delegated
    ]


def add(asked: Namespace) -> None:
    """Delegate to an operator."""
    with connected(asked) as chain:
        amount = chain.wallet(chain.account) if asked.all else asked.amount
        call = calls.delegate(chain.at, asked.operator, amount)
        if sent := chain.send(*chain.with_approval(call, amount)):
            calendar = chain.holdings.calendar
            epoch = calendar.earning_epoch
            since = calendar.start_of(epoch)
            chain.output.done(
                sent,
                f"Delegated {format_tokens(amount)} tokens to {asked.operator}",
                f"They earn from the second epoch of the vault after this one on, number {epoch}, from {utc(since)};"
                " see them with: flock-ray delegation show",
                {"operator": asked.operator, "amount_wei": amount, "earns_from_epoch": epoch, "earns_from_at": since},
            )


def remove(asked: Namespace) -> None:
    """Ask for delegated stake back."""
    with connected(asked) as chain:
        shares = _shares(chain, asked)
        if sent := chain.send(calls.undelegate(chain.at, asked.operator, shares)):
            calendar = chain.holdings.calendar
            ready_at = calendar.thawed_at(calendar.epoch)
            what = "all stake" if asked.all else f"{format_tokens(asked.amount)} tokens of stake"
            chain.output.done(
                sent,
                f"Asked {asked.operator} for {what}",
                f"It thaws until {utc(ready_at)}, then: flock-ray delegation withdraw; it earns no more",
                {"operator": asked.operator, "shares": shares, "epoch": calendar.epoch, "ready_at": ready_at},
            )


def _shares(chain: Connection, asked: Namespace) -> int:
    """Shares of the pool that are worth what is asked for, rounded up."""
    held = chain.holdings.delegation(asked.operator, chain.account)
    if asked.all:
        return held.shares
    if asked.amount > held.amount:
        has = format_tokens(held.amount)
        raise FundsError(f"{chain.account} has {has} tokens with {asked.operator}, not {format_tokens(asked.amount)}")
    pool = chain.holdings.pool(asked.operator)
    needed: int = -(-asked.amount * pool.shares // pool.delegated)
    return min(held.shares, needed)


def withdraw(asked: Namespace) -> None:
    """Take out delegated stake that has thawed."""
    with connected(asked) as chain:
        requests = chain.holdings.delegation(asked.operator, chain.account).requests
        due = thawed(requests, chain.reader.timestamp())
        ended = chain.send_each([calls.withdraw_delegation(chain.at, asked.operator, it.epoch) for it in due])
        tell_withdrawn(chain, "delegation", requests, due, ended)


def claim(asked: Namespace) -> None:
    """Take the account's rewards as delegator."""
    with connected(asked) as chain:
        amount = chain.holdings.delegation(asked.operator, chain.account).rewards
        if not amount:
            raise ChainError(
                f"{chain.account} has no rewards with {asked.operator}; its pool is paid with: flock-ray task claim"
            )
        if sent := chain.send(calls.claim_delegation_rewards(chain.at, asked.operator)):
            facts = {"operator": asked.operator, "amount_wei": amount}
            chain.output.done(sent, f"Claimed {format_tokens(amount)} tokens", "", facts)
