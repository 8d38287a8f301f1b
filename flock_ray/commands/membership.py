"""`flock-ray task …`: what a member or a node does: join, enter, leave, have its rewards and its stake back."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.chain import calls
from flock_ray.chain.merkle import reward_leaf
from flock_ray.chain.values import TaskStatus, TaskView, TxReceipt
from flock_ray.chain.words import format_tokens, utc
from flock_ray.cluster.member import hash_chain
from flock_ray.commands.connection import Connection, connected
from flock_ray.commands.evidence import read_rewards
from flock_ray.commands.run_files import RunFiles, rewards_tree
from flock_ray.commands.task import view_of
from flock_ray.errors import ChainError, ConfigError, FundsError
from flock_ray.protocol.roster import due_epoch


def join(asked: Namespace) -> None:
    """Join a task, the one that the member expects, with stake that is free in the account's pool."""
    with connected(asked) as chain:
        view, expected = view_of(chain), _expected(asked)
        _require_expected(chain, view, expected)
        terms = view.terms
        slots = terms.max_slots if asked.slots is None else asked.slots
        if not 1 <= slots <= terms.max_slots:
            raise ConfigError(f"--slots is {slots}; it must be between 1 and {terms.max_slots}")
        amount = asked.amount or slots * terms.min_stake
        _require_stake(chain, view, amount)
        tip = hash_chain(chain.signer, chain.task, terms.num_epochs + terms.max_skips).tip
        if sent := chain.send(calls.join(chain.at, chain.task, amount, tip, expected)):
            slots = min(amount // terms.min_stake, terms.max_slots)
            lock = chain.reader.struct("StakeVault", "lockOf", chain.task, chain.account)
            since = due_epoch(view.last_settled, terms.max_unsettled) if view.status is TaskStatus.RUNNING else 1
            facts = {"amount_wei": amount, "delegated_wei": lock["delegated"], "slots": slots, "from_epoch": since}
            then = f"The slots count from epoch {since} on; the stake stays locked until the task is over"
            if lock["delegated"]:
                then += f"; {_shared(lock['delegated'])}"
            if surplus := amount - slots * terms.min_stake:
                then += f"; {format_tokens(surplus)} tokens of it buy no slot, and answer for the others"
            told = f"Joined with {format_tokens(amount)} tokens and {slots} slot{'s' if slots > 1 else ''}"
            chain.output.done(sent, told, then, facts)


def enter(asked: Namespace) -> None:
    """Enter a running contest, the one that the node expects, with stake that is free in the account's pool."""
    with connected(asked) as chain:
        view, expected = view_of(chain), bytes.fromhex(asked.expect)
        _require_expected(chain, view, expected)
        amount = asked.amount or view.node_stake
        _require_stake(chain, view, amount)
        if sent := chain.send(calls.enter(chain.at, chain.task, amount, expected)):
            lock = chain.reader.struct("StakeVault", "lockOf", chain.task, chain.account)
            index = chain.reader.ask("TaskRegistry", "indexOf", chain.task, chain.account)
            facts = {"amount_wei": amount, "delegated_wei": lock["delegated"], "member": index}
            then = "The stake stays locked until the contest is over; to leave it before: flock-ray task resign"
            if lock["delegated"]:
                then += f"; {_shared(lock['delegated'])}"
            chain.output.done(sent, f"Entered as node {index} with {format_tokens(amount)} tokens", then, facts)


def _shared(delegated: int) -> str:
    return f"{format_tokens(delegated)} tokens of it are the delegators', and rewards of the task go to the pool"


def _require_expected(chain: Connection, view: TaskView, expected: bytes) -> None:
    if view.digest != expected:
        raise ChainError(
            f"task 0x{chain.task.hex()} is not the one that is expected: its digest is 0x{view.digest.hex()}, not"
            f" 0x{expected.hex()}, so it has another creator or other terms"
        )


def _expected(asked: Namespace) -> bytes:
    """Digest of the creator and the terms that the member means to join; never what the chain says of itself.

    Raises:
        ConfigError: the member says nothing.
    """
    if asked.expect:
        return bytes.fromhex(asked.expect)
    run = asked.run or (asked.task if not isinstance(asked.task, bytes) else None)
    if run is None:
        raise ConfigError(
            "say which creator and terms you mean to join: --run RUN_DIR takes them from a run's configuration,"
            " --expect HASH is the digest that whoever published the task tells you; flock-ray task show prints the one"
            " on the chain, to be compared with it"
        )
    return RunFiles(run).expected()


def _require_stake(chain: Connection, view: TaskView, amount: int) -> None:
    lockable = chain.holdings.lockable(chain.account, view.creator)
    if amount <= lockable:
        return
    pool = chain.holdings.pool(chain.account)
    kinds = f"{format_tokens(pool.own_free)} of its own and {format_tokens(pool.delegated_free)} delegated are free"
    raise FundsError(
        f"a task of {view.creator} can lock {format_tokens(lockable)} tokens of the pool of {chain.account}, not"
        f" {format_tokens(amount)} ({kinds}); add own stake with: flock-ray stake add, or let the pool serve the"
        " creator with: flock-ray pool creators add"
    )


def cancel_join(asked: Namespace) -> None:
    """Leave a task that has not started."""
    with connected(asked) as chain:
        amount = chain.reader.ask("StakeVault", "lockedStake", chain.task, chain.account)
        if sent := chain.send(calls.cancel_join(chain.at, chain.task)):
            chain.output.done(
                sent,
                f"Left the task, which frees {format_tokens(amount)} tokens of stake,",
                "The account cannot join this task a second time",
                {"amount_wei": amount},
            )


def resign(asked: Namespace) -> None:
    """Ask to leave a running task."""
    with connected(asked) as chain:
        view = view_of(chain)
        if sent := chain.send(calls.resign(chain.at, chain.task)):
            since = due_epoch(view.last_settled, view.terms.max_unsettled)
            window = chain.reader.ask("TaskRegistry", "evidenceWindow")
            then = (
                f"Serve on: the account is out when epoch {since} is settled; {window} seconds later: flock-ray task"
                " release"
            )
            if any(node.account == chain.account for node in view.nodes.values()):
                twice = f", and again {window} seconds later" if window else ""
                then = f"The node is out when epoch {since} is over, then: flock-ray task release{twice}"
            facts = {"out_with_epoch": since, "evidence_window_seconds": window}
            chain.output.done(sent, "Asked to leave the task", then, facts)


def release(asked: Namespace) -> None:
    """Release what is left of a member's stake from a task; of a node that leaves, first note that it left."""
    with connected(asked) as chain:
        account = asked.account or chain.account
        amount = chain.reader.ask("StakeVault", "lockedStake", chain.task, account)
        if sent := chain.send(calls.release(chain.at, chain.task, account)):
            if left := chain.reader.ask("StakeVault", "lockedStake", chain.task, account):
                until = chain.reader.timestamp() + chain.reader.ask("TaskRegistry", "evidenceWindow")
                chain.output.done(
                    sent,
                    f"Noted that {account} left the contest",
                    f"Its stake, {format_tokens(left)} tokens, answers until {utc(until)}, then again: flock-ray task"
                    " release",
                    {"account": account, "amount_wei": 0, "locked_wei": left, "locked_until_at": until},
                )
                return
            chain.output.done(
                sent,
                f"Released {format_tokens(amount)} tokens of stake of {account}",
                "They are free for another task; to take out own stake: flock-ray stake unstake",
                {"account": account, "amount_wei": amount},
            )


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
        claims = [
            calls.claim(chain.at, chain.task, account, rewards[account], proofs[account], account in to_pool)
            for account in due
        ]
        ended = dict(zip(due, chain.send_each(claims), strict=False))  # somebody else may have claimed one meanwhile
        sent = {account: end for account, end in ended.items() if isinstance(end, TxReceipt)}
        if sent:
            told = (
                f"{format_tokens(due[account])} tokens {'into the pool of' if account in to_pool else 'to'} {account}"
                for account in sent
            )
            pooled = "Out of a pool: flock-ray pool claim, and its delegators flock-ray delegation claim"
            facts = [
                {"account": account, "claimed_wei": due[account], "to_its_pool": account in to_pool} for account in sent
            ]
            refused = [str(end) for end in ended.values() if not isinstance(end, TxReceipt)]
            then = "; ".join([*([pooled] if to_pool else []), *(f"not sent: {why}" for why in refused)])
            what = f"Claimed {', '.join(told)}"
            chain.output.done(list(sent.values()), what, then, {"claimed": facts, "refused": refused})
