"""`flock-ray task …`: a task itself: how far it is, and what makes it begin and end."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from flock_ray.chain import calls
from flock_ray.chain.seed_block import await_seed
from flock_ray.chain.values import MemberView, TaskStatus, TaskTerms, TaskView
from flock_ray.chain.words import format_tokens, utc
from flock_ray.commands.connection import TIMEOUT, Connection, connected
from flock_ray.errors import ChainError


def show(asked: Namespace) -> None:
    """A task: how far it is, its terms, its money, its members."""
    with connected(asked) as chain:
        view = view_of(chain)
        terms, queue = view.terms, chain.reader.struct("RewardDistributor", "queueOf", chain.task)
        roots = chain.reader.reward_roots(chain.task)
        chain.output.facts(
            {
                "task": "0x" + chain.task.hex(),
                "status": view.status.name.lower(),
                "creator": view.creator,
                "digest": "0x" + view.digest.hex(),
                "terms_hash": "0x" + terms.terms_hash.hex(),
                "model_hash": "0x" + terms.model_hash.hex(),
                "join_until_at": view.join_deadline,
                "seed_block": view.seed_block if view.status is TaskStatus.STARTING else None,
                "epochs_settled": view.last_settled,
                "epochs": terms.num_epochs,
                "epochs_abandoned_in_a_row": view.skips,
                **_abandonment(chain, view),
                "slots": view.num_slots,
                "voters": terms.num_voters,
                "proposers": terms.num_proposers,
                "stake_of_a_slot_wei": terms.min_stake,
                "stake_of_a_node_wei": view.node_stake or None,
                "slots_of_a_member_at_most": terms.max_slots,
                "members_at_least": terms.min_members,
                "members_at_most": terms.max_members,
                "epoch_deadline_seconds": terms.epoch_deadline,
                "unsettled_epochs_at_most": terms.max_unsettled,
                "abandoned_epochs_in_a_row_at_most": terms.max_skips,
                "pool_wei": terms.pool,
                "end_share_bps": terms.end_share_bps,
                "pool_left_wei": view.pool_left,
                "committed_wei": view.committed,
                "claimed_wei": view.claimed,
                "escrow_wei": view.escrow,
                "sink": chain.reader.ask("TaskRegistry", "sink"),
                "rewards_frozen": queue["frozen"],
                "pending_rewards_from_at": min(roots.pending.values(), default=None),
                "stakes_released_from_at": chain.reader.ask("TaskRegistry", "releasableAt", chain.task)
                if view.status is TaskStatus.CLOSED
                else None,
                "members": [_member_row(number, member, terms) for number, member in enumerate(view.members)],
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


def view_of(chain: Connection) -> TaskView:
    """The task.

    Raises:
        ChainError: there is none.
    """
    view = chain.reader.task_view(chain.task)
    if view.status is TaskStatus.NONE:
        raise ChainError(f"the contracts have no task 0x{chain.task.hex()}")
    return view


def _abandonment(chain: Connection, view: TaskView) -> dict[str, Any]:
    """From when the next epoch may be abandoned: by a first call, and if there was one, by the second."""
    first = second = None
    if view.status is TaskStatus.RUNNING:
        first = view.epoch_start + view.terms.epoch_deadline * (view.terms.max_unsettled + 1)
        second = chain.reader.ask("EpochSettlement", "abandonableFrom", chain.task, view.last_settled + 1) or None
    return {"abandon_after_at": first, "abandonment_announced_from_at": second}


def _member_row(number: int, member: MemberView, terms: TaskTerms) -> dict[str, Any]:
    return {
        "member": number,
        "account": member.account,
        "slots": member.slots,
        "locked_wei": member.stake,
        "delegated_wei": member.delegated,
        "state": _state(member, terms),
    }


def _state(member: MemberView, terms: TaskTerms) -> str:
    if member.left_at:
        return f"left on {utc(member.left_at)}"
    if not member.leaving:
        return "in"
    below = 2 * member.stake < member.slots * terms.min_stake  # who keeps less is made to leave
    return "is made to leave: below half its stake" if below else "asked to leave"


def start(asked: Namespace) -> None:
    """Fix a task's members, or close a task that too few have joined."""
    with connected(asked) as chain:
        if sent := chain.send(calls.start(chain.at, chain.task)):
            view = view_of(chain)
            what, then = _STARTED[view.status]
            facts = {"status": view.status.name.lower(), "seed_block": view.seed_block or None}
            chain.output.done(sent, what, then.format(block=view.seed_block), facts)


_STARTED = {
    TaskStatus.CLOSED: (
        "Closed the task, which has too few members,", "Stakes are free again with: flock-ray task release",
    ),
    TaskStatus.STARTING: (
        "Fixed the members of the task", "Its first epoch begins after block {block}, with: flock-ray task open"
    ),
    TaskStatus.RUNNING: ("Started the task", ""),
}  # fmt: skip
"""{status after the start: what happened, what comes next}."""


def open_(asked: Namespace) -> None:
    """Begin the first epoch of a task whose members are fixed, as soon as its seed block is mined."""
    with connected(asked) as chain:
        while True:
            if view_of(chain).status is TaskStatus.STARTING and not chain.dry_run:
                await_seed(chain.node, chain.reader, chain.task, TIMEOUT)
            sent = chain.send(calls.open_task(chain.at, chain.task))
            if not sent:
                return
            view = view_of(chain)
            facts = {"status": view.status.name.lower(), "seed": "0x" + view.seed.hex()}
            if view.status is not TaskStatus.STARTING:
                chain.output.done(sent, "Began the first epoch", "", facts)
                return
            again = f"The first epoch begins after block {view.seed_block}: the same call is sent again"
            told = "Fixed another seed block, since nobody knows the hash of the first one any more,"
            chain.output.done(sent, told, again, {**facts, "seed_block": view.seed_block})


def abandon(asked: Namespace) -> None:
    """Announce that the next epoch is abandoned, or abandon it once that was announced long enough ago."""
    with connected(asked) as chain:
        epoch = view_of(chain).last_settled + 1
        if sent := chain.send(calls.abandon(chain.at, chain.task, epoch)):
            view = view_of(chain)
            facts = {"epoch": epoch, "status": view.status.name.lower()}
            if view.last_settled < epoch:
                since = chain.reader.ask("EpochSettlement", "abandonableFrom", chain.task, epoch)
                chain.output.done(
                    sent,
                    f"epoch {epoch}: announced that it is abandoned",
                    f"Unless it is settled until {utc(since)}, the same command abandons it then",
                    {**facts, "abandoned": False, "abandon_from_at": since},
                )
                return
            closed = view.status is TaskStatus.CLOSED
            then = "The task is closed" if closed else f"Epoch {epoch + 1} is the next one, under another seed"
            chain.output.done(sent, f"epoch {epoch}: abandoned", then, {**facts, "abandoned": True})


def refund(asked: Namespace) -> None:
    """Pay the creator what has come into a closed task's pool."""
    with connected(asked) as chain:
        view = view_of(chain)
        if sent := chain.send(calls.refund(chain.at, chain.task)):
            facts = {"creator": view.creator, "amount_wei": view.pool_left}
            chain.output.done(sent, f"Refunded {format_tokens(view.pool_left)} tokens to {view.creator}", "", facts)
