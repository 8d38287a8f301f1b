"""`flock-ray usage …`: what a gateway's ledger holds, and its settlement."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from flock_ray.chain.calls import Call
from flock_ray.chain.keys import load_signer
from flock_ray.chain.outbox import Outbox
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.sender import Sender
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.usage_settler import UsageSettler
from flock_ray.chain.values import MAX_FEE, TxReceipt
from flock_ray.chain.words import format_tokens
from flock_ray.commands.connection import TIMEOUT
from flock_ray.commands.output import Output
from flock_ray.errors import FlockRayError
from flock_ray.market.ledger import Ledger
from flock_ray.market.settlement import Settled, Settlement
from flock_ray.protocol.encoding import to_hex


def show(asked: Namespace) -> None:
    """What was used, what waits, and the batches."""
    with Ledger.open(asked.ledger, create=False) as ledger:
        accounts = [bytes.fromhex(asked.account[2:])] if asked.account else sorted(ledger.batches.charged_books())
        used = [
            {
                "account": to_hex(account), "day_at": row.day, "key": row.key, "model": row.model_id,
                "requests": row.requests, "prompt_tokens": row.prompt_tokens, "output_tokens": row.output_tokens,
                "cost_wei": row.cost,
            }
            for account in accounts for row in ledger.usage(account)
        ]  # fmt: skip
        facts = {
            "accounts": len(accounts), "used": used, "waiting": _waiting(ledger), "batches": _batches(ledger),
            "uncollectable": _uncollectable(ledger),
        }  # fmt: skip
    Output(asked.json).facts(facts)


def _waiting(ledger: Ledger) -> list[dict[str, Any]]:
    return [
        {
            "price_book": to_hex(waiting.price_book), "receipts": waiting.receipts,
            "receipts_that_need_a_later_cap": waiting.ended, "oldest_at": waiting.oldest,
            "accounts_that_withdraw": waiting.withdrawn, "caps_that_end_soon": waiting.expiring,
            "in_force": waiting.in_force,
        }
        for waiting in ledger.batches.waiting()
    ]  # fmt: skip


def _uncollectable(ledger: Ledger) -> list[dict[str, Any]]:
    return [
        {
            "price_book": to_hex(one.price_book), "number": one.number, "account": to_hex(one.account),
            "owed_wei": one.units, "settled_at": one.settled_at,
        }
        for one in ledger.batches.uncollectable()
    ]  # fmt: skip


def _batches(ledger: Ledger) -> list[dict[str, Any]]:
    uncollected = set(ledger.batches.uncollected())
    rows = []
    for book in ledger.batches.books():
        for number in ledger.batches.numbers(book):
            taken = ledger.batches.get(book, number)
            rows.append(
                {
                    "price_book": to_hex(book), "number": number, "receipts": taken.num_receipts,
                    "charged_wei": taken.after.total - taken.before.total, "settled_at": taken.settled_at,
                    "collected": (book, number) not in uncollected,
                }
            )  # fmt: skip
    return rows


def settle(asked: Namespace) -> None:
    """Settle what waits and collect what active batches charge: once, or again and again what is due by then."""
    with settling(asked) as side:
        output = Output(asked.json)
        if asked.dry_run:
            seen, held = _seen(side), {"waiting": _waiting(side.ledger), "batches": _batches(side.ledger)}
            output.facts({"dry_run": True, **seen, **held})
            return
        if not asked.every:
            output.facts(_settle(side, after=0))
            return
        told = ""
        while True:
            try:
                done = _settle(side, asked.after)
                if done["settled"] or done["collected"]:
                    output.facts(done)
                if (lacking := _lacking(done)) != told and lacking:
                    output.note(lacking, {"warning": lacking})
                told = lacking
            except FlockRayError as error:  # it outlives a node that is away
                output.note(f"not settled now: {error}", {"error": str(error)})
            time.sleep(asked.every)


def _seen(side: Side) -> dict[str, Any]:
    seen = side.settlement.watch()
    return {
        "gateway": side.gateway, "stake_wei": seen.stake, "min_stake_wei": seen.min_stake, "accounts": seen.accounts,
        "accounts_that_withdraw": seen.withdrawing,
    }  # fmt: skip


def _settle(side: Side, after: int) -> dict[str, Any]:
    """One look: what waits for `after` seconds, or is urgent, is settled; what is active is collected."""
    facts, now = _seen(side), side.node.timestamp()
    batches = side.ledger.batches
    due = side.settlement.due(int(time.time()), after) if after else batches.waiting()
    books = dict.fromkeys([*batches.unsettled(), *(waiting.price_book for waiting in due)])
    settled = [_facts(done) for book in books for done in side.settlement.settle(book)]
    collected = side.settlement.collect(now)
    if collected:
        side.settlement.watch()
    return facts | {
        "settled": settled, "collected": _sent(collected), "batches_to_collect": len(batches.uncollected()),
        "receipts_that_need_a_later_cap": sum(waiting.ended for waiting in batches.waiting()),
        "uncollectable": _uncollectable(side.ledger),
    }  # fmt: skip


def _lacking(done: dict[str, Any]) -> str:
    """What waits for later caps, in a line; empty if nothing does."""
    receipts, owed = done["receipts_that_need_a_later_cap"], sum(one["owed_wei"] for one in done["uncollectable"])
    told = [f"{receipts} receipts wait"] if receipts else []
    told += [f"{format_tokens(owed)} tokens of settled batches cannot be collected"] if owed else []
    if not told:
        return ""
    return f"Caps have ended. Until their accounts sign later ones, {' and '.join(told)}: flock-ray usage show"


def pay(asked: Namespace) -> None:
    """Send the claims of everybody whom a full batch gives more than they were paid."""
    with settling(asked) as side:
        calls = [call for book in side.ledger.batches.books() for call in side.settlement.claims(book)]
        facts = {"gateway": side.gateway, "claims": len(calls)}
        if asked.dry_run:
            Output(asked.json).facts({"dry_run": True, **facts})
            return
        Output(asked.json).facts({**facts, "paid": _sent(side.send(calls))})


def _facts(done: Settled) -> dict[str, Any]:
    batch = done.batch
    return {
        "series": to_hex(batch.series), "number": batch.number, "receipts": done.receipts,
        "total_wei": batch.tables.total, "folder": str(done.folder),
    }  # fmt: skip


def _sent(receipts: Sequence[TxReceipt]) -> list[dict[str, Any]]:
    return [{"transaction": to_hex(one.hash), "block": one.block, "gas_used": one.gas_used} for one in receipts]


@dataclass(frozen=True)
class Side:
    """The settling side of a gateway; `gateway` is its account."""

    ledger: Ledger
    settlement: Settlement
    node: RpcNode
    sender: Sender
    gateway: str
    reader: UsageReader

    def send(self, calls: Sequence[Call]) -> list[TxReceipt]:
        """Send calls of the gateway's account, one after the other."""
        return _send(self.sender, calls)


def _send(sender: Sender, calls: Sequence[Call]) -> list[TxReceipt]:
    """Send calls, each priced at the state that those before it left: there may be many."""
    return [sender.send(sender.price([call])[0]) for call in calls]


@contextmanager
def settling(asked: Namespace) -> Iterator[Side]:
    """The settling side of the gateway whose key, keystore, ledger, node (`rpc`) and folder (`to`) are named."""
    signer = load_signer(asked.key, asked.keystore)
    with Ledger.open(asked.ledger, create=False) as ledger:
        domain = ledger.gateway().domain
        with closing(RpcNode(asked.rpc, domain.chain_id)) as node:
            reader = UsageReader(node, domain.contract, signer.address)
            sender = Sender(node, signer, TIMEOUT)
            with closing(UsageSettler(node, signer, Outbox(asked.to / "outbox.sqlite"), TIMEOUT, MAX_FEE)) as settler:
                settlement = Settlement(ledger, reader, settler, partial(_send, sender), signer, asked.to)
                yield Side(ledger, settlement, node, sender, signer.address, reader)
