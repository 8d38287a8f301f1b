"""`flock-ray task …`: a task and its members, and their money."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from flock_ray.chain import calls
from flock_ray.chain.merkle import reward_leaf
from flock_ray.chain.values import MemberView, TaskStatus, TaskView
from flock_ray.chain.words import format_tokens, utc
from flock_ray.cluster.member import hash_chain
from flock_ray.commands.connection import Connection, connected
from flock_ray.commands.evidence import read_rewards
from flock_ray.commands.run_files import rewards_tree
from flock_ray.errors import ChainError, FundsError
from flock_ray.protocol.roster import due_epoch


def show(asked: Namespace) -> None:
    """A task: how far it is, its terms, its money, its members."""
    with connected(asked) as chain:
        view = _view(chain)
        terms, queue = view.terms, chain.reader.struct("RewardDistributor", "queueOf", chain.task)
        running = view.status is TaskStatus.RUNNING
        patience = terms.epoch_deadline * (terms.max_unsettled + 1)
        roots = chain.reader.reward_roots(chain.task)
        chain.output.facts(
            {
                "task": "0x" + chain.task.hex(),
                "status": view.status.name.lower(),
                "creator": view.creator,
                "terms_hash": "0x" + terms.terms_hash.hex(),
                "join_until_at": view.join_deadline,
                "epochs_settled": view.last_settled,
                "epochs": terms.num_epochs,
                "epochs_abandoned_in_a_row": view.skips,
                "abandon_after_at": view.epoch_start + patience if running else None,
                "slots": view.num_slots,
                "voters": terms.num_voters,
                "proposers": terms.num_proposers,
                "stake_of_a_slot_wei": terms.min_stake,
                "slots_of_a_member_at_most": terms.max_slots,
                "members_at_least": terms.min_members,
                "members_at_most": terms.max_members,
                "pool_wei": terms.pool,
                "pool_left_wei": view.pool_left,
                "committed_wei": view.committed,
                "claimed_wei": view.claimed,
                "rewards_frozen": queue["frozen"],
                "pending_rewards_from_at": min(roots.pending.values(), default=None),
                "stakes_released_from_at": chain.reader.ask("TaskRegistry", "releasableAt", chain.task)
                if view.status is TaskStatus.CLOSED
                else None,
                "members": [_member_row(number, member) for number, member in enumerate(view.members)],
                "changes": [
                    {
                        "member": change.member,
                        "what": "leaves" if change.leaves else "joins",
                        "from_epoch": change.epoch,
                        "slots": change.slots,
                    }
                    for change in view.changes[view.num_applied :]
                ],
            }
        )


def _view(chain: Connection) -> TaskView:
    view = chain.reader.task_view(chain.task)
    if view.status is TaskStatus.NONE:
        raise ChainError(f"the contracts have no task 0x{chain.task.hex()}")
    return view


def _member_row(number: int, member: MemberView) -> dict[str, Any]:
    state = f"left on {utc(member.left_at)}" if member.left_at else "leaving" if member.leaving else "in"
    return {
        "member": number,
        "account": member.account,
        "slots": member.slots,
        "locked_wei": member.stake,
        "state": state,
    }


def join(asked: Namespace) -> None:
    """Join a task with stake that is free in the account's pool."""
    with connected(asked) as chain:
        view = _view(chain)
        terms = view.terms
        amount = asked.amount or (asked.slots or terms.max_slots) * terms.min_stake
        free = chain.holdings.pool(chain.account).free
        if amount > free:
            raise FundsError(
                f"{format_tokens(free)} tokens are free in the pool of {chain.account}, not {format_tokens(amount)};"
                " add some with: flock-ray stake add"
            )
        tip = hash_chain(chain.signer, chain.task, terms.num_epochs + terms.max_skips).tip
        if sent := chain.send(calls.join(chain.at, chain.task, amount, tip)):
            slots = min(amount // terms.min_stake, terms.max_slots)
            since = due_epoch(view.last_settled, terms.max_unsettled) if view.status is TaskStatus.RUNNING else 1
            chain.output.done(
                sent,
                f"Joined with {format_tokens(amount)} tokens and {slots} slot{'s' if slots > 1 else ''}",
                f"The slots count from epoch {since} on; the stake stays locked until the task is over",
                {"amount_wei": amount, "slots": slots, "from_epoch": since},
            )


def resign(asked: Namespace) -> None:
    """Ask to leave a running task."""
    with connected(asked) as chain:
        view = _view(chain)
        if sent := chain.send(calls.resign(chain.at, chain.task)):
            since = due_epoch(view.last_settled, view.terms.max_unsettled)
            window = chain.reader.ask("TaskRegistry", "evidenceWindow")
            chain.output.done(
                sent,
                "Asked to leave the task",
                f"Serve on: the account is out when epoch {since} is settled; {window} seconds later: flock-ray task"
                " release",
                {"out_with_epoch": since, "evidence_window_seconds": window},
            )


def start(asked: Namespace) -> None:
    """Begin a task's first epoch."""
    with connected(asked) as chain:
        if sent := chain.send(calls.start(chain.at, chain.task)):
            status = _view(chain).status
            closed = status is TaskStatus.CLOSED
            chain.output.done(
                sent,
                "Closed the task, which has too few members," if closed else "Started the task",
                "Stakes are free again with: flock-ray task release" if closed else "",
                {"status": status.name.lower()},
            )


def release(asked: Namespace) -> None:
    """Release what is left of a member's stake from a task."""
    with connected(asked) as chain:
        account = asked.account or chain.account
        amount = chain.reader.ask("StakeVault", "lockedStake", chain.task, account)
        if sent := chain.send(calls.release(chain.at, chain.task, account)):
            chain.output.done(
                sent,
                f"Released {format_tokens(amount)} tokens of stake of {account}",
                "They are free for another task; to take out own stake: flock-ray stake unstake",
                {"account": account, "amount_wei": amount},
            )


def refund(asked: Namespace) -> None:
    """Pay the creator what has come into a closed task's pool."""
    with connected(asked) as chain:
        view = _view(chain)
        if sent := chain.send(calls.refund(chain.at, chain.task)):
            facts = {"creator": view.creator, "amount_wei": view.pool_left}
            chain.output.done(sent, f"Refunded {format_tokens(view.pool_left)} tokens to {view.creator}", "", facts)


def claim(asked: Namespace) -> None:
    """Have accounts, or their pools, paid what they have earned of a task's rewards."""
    with connected(asked) as chain:
        if asked.rewards:
            rewards = read_rewards(asked.rewards)
        else:
            rewards = chain.run.rewards(chain.reader.reward_roots(chain.task).paying, chain.domain)
        accounts = list(rewards) if asked.all else [asked.account or chain.account]
        paid = chain.reader.claimed(chain.task, accounts)
        due = {account: left for account in accounts if (left := rewards.get(account, 0) - paid[account]) > 0}
        if not due:
            raise ChainError(f"nothing is left to be claimed by {'anybody' if asked.all else accounts[0]}")
        to_pool = chain.reader.paid_to_pool(chain.task, list(due))
        tree = rewards_tree(rewards, chain.domain, chain.task)
        proofs = {
            account: tree.proof(reward_leaf(chain.domain, chain.task, account, rewards[account])) for account in due
        }
        claims = (
            calls.claim(chain.at, chain.task, account, rewards[account], proofs[account], account in to_pool)
            for account in due
        )
        if sent := chain.send(*claims):
            told = (
                f"{format_tokens(wei)} tokens {'into the pool of' if account in to_pool else 'to'} {account}"
                for account, wei in due.items()
            )
            pooled = "Out of a pool: flock-ray pool claim, and its delegators flock-ray delegation claim"
            facts = [
                {"account": account, "claimed_wei": wei, "to_its_pool": account in to_pool}
                for account, wei in due.items()
            ]
            chain.output.done(sent, f"Claimed {', '.join(told)}", pooled if to_pool else "", {"claimed": facts})
