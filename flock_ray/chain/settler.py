"""Settles epochs exactly once: the contract is asked first, then the journal, and only then is anything sent.

Every look at the chain decides anew what to do next, so a crash, a lost answer, a lagging node or a block that was
taken back needs no case of its own. Nothing is skipped: an epoch that cannot be settled ends in an error.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import chain
from threading import Event
from typing import TypeVar

from flock_ray.chain.abi import contract
from flock_ray.chain.eip712 import report_hash
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.fee_bumper import FeeBumper, fees_up_to
from flock_ray.chain.keys import Signer
from flock_ray.chain.node import ChainNode, Reverted, revert_error
from flock_ray.chain.outbox import Attempt, Inclusion, Intent, Outbox, State, intent_id
from flock_ray.chain.transactions import call, max_fee_of, settle_call, settle_gas
from flock_ray.chain.values import EpochAbandonedError, TxContext, TxReceipt, Waiting
from flock_ray.errors import ChainError, ChainUnreachableError
from flock_ray.protocol.hashing import keccak, word

_FIRST_POLL, _LAST_POLL = 0.05, 2.0  # seconds between two looks
_FIRST_BACKOFF, _LAST_BACKOFF = 0.25, 5.0  # seconds between two tries to reach the chain
_MAX_REVERTED = 2  # attempts of one call that may revert
_PATIENT_LOOKS = 5  # at a contradiction, which a lagging or reorganized chain may show for a while

T = TypeVar("T")


class _Watch:
    """What one call of `Settler.settle` has seen so far of one intent."""

    def __init__(self, looks: int, new_bumper: Callable[[], FeeBumper]) -> None:
        self.since = time.monotonic()
        self.pause = 0.0
        self.bids = defaultdict[int, FeeBumper](new_bumper)  # by nonce
        self.reverted = 0
        self._looks = looks
        self._contradictions: dict[str, int] = {}

    def believes(self, what: str, seen: bool = True) -> bool:
        """Whether a contradiction stands after as many looks in a row as it takes."""
        self._contradictions[what] = self._contradictions.get(what, 0) + 1 if seen else 0
        return self._contradictions[what] >= self._looks


class Settler:
    """The relayer's sending side: one node, one key, one journal, one thread."""

    def __init__(
        self,
        node: ChainNode,
        relayer: Signer,
        outbox: Outbox,
        timeout: float,
        max_fee: int,
        fixed_members: bool = False,
    ) -> None:
        """Settle through `node`.

        Args:
            node: the chain.
            relayer: the key; nobody else may send with it.
            outbox: the journal.
            timeout: seconds to wait for a receipt while the chain answers.
            max_fee: most to pay, wei a gas.
            fixed_members: send no report of a task whose members change; `settle` raises ChainError then.
        """
        self._node = node
        self._relayer = relayer
        self._outbox = outbox
        self._timeout = timeout
        self._max_fee = max_fee
        self._fixed_members = fixed_members
        self._outage = 0.0
        self._closed = Event()
        self.waiting: Waiting | None = None

    def settle(
        self, settlement: str, report: Report, seats: int, signatures: bytes, changed_slots: int = 0
    ) -> TxReceipt:
        """Settle an epoch, or find that this very report settled it. While the chain does not answer, this waits.

        Args:
            settlement: address of EpochSettlement.
            report: of the epoch after the last settled, or one whose predecessors are in the journal.
            seats: bitmap of the voter seats that signed.
            signatures: EIP-2098, 64 bytes each, in the order of seats.
            changed_slots: slots of the members that join or leave with this epoch (`TaskView.changed_slots`).

        Raises:
            EpochAbandonedError: the epoch was given up before.
            ChainError: the contract refuses the report (its custom error is told) or settled another one, or the
                transaction was not mined in time; asked again, the same transaction goes on.
            FundsError: the relayer cannot pay.
            ChainUnreachableError: the settler was closed while it waited.
        """
        digest = report_hash(report)
        name = intent_id(self._node.chain_id, settlement, digest)
        data, gas = settle_call(report, seats, signatures), settle_gas(report, seats, changed_slots)
        intent = Intent(name, settlement, report.task, report.epoch, digest, data, gas)
        self._outbox.plan(intent)
        self._patiently(report.epoch, self._recheck)
        return self._carry(intent)

    def confirm(self, level: State) -> dict[int, TxReceipt]:
        """Wait until every settlement of the journal is as sure as `level`; one that was taken back is sent again.

        Returns:
            {epoch: receipt} of every settlement.

        Raises:
            ChainError: see `settle`.
        """
        pause = _FIRST_POLL
        while missing := self._patiently(0, lambda: self._short_of(level)):
            epoch = missing[0].epoch
            self._say(epoch, f"the block that settled it is not {level.value} yet")
            self._sleep(pause)
            pause = min(2 * pause, _LAST_BACKOFF)
        self.waiting = None
        receipts = {intent.epoch: self._carry(intent) for intent in self._outbox.in_a_block()}
        return dict(sorted(receipts.items()))

    def close(self) -> None:
        """Stop waiting and close the journal."""
        self._closed.set()
        self._outbox.close()

    # The chain away or back.

    def _patiently(self, epoch: int, ask: Callable[[], T]) -> T:
        """What `ask` finds; while a remote chain does not answer, it is asked again and again."""
        pause, began = _FIRST_BACKOFF, time.monotonic()
        while True:
            try:
                found = ask()
            except ChainUnreachableError as error:
                if not self._node.remote or self._closed.is_set():
                    raise
                self._say(epoch, str(error), unreachable=True)
                self._sleep(pause)
                pause = min(2 * pause, _LAST_BACKOFF)
            else:
                if self.waiting is not None and self.waiting.unreachable:
                    self._outage += time.monotonic() - began
                    self.waiting = None
                return found

    def _say(self, epoch: int, reason: str, unreachable: bool = False) -> None:
        now = self.waiting
        if now is None or (now.epoch, now.unreachable) != (epoch, unreachable):
            self.waiting = Waiting(epoch, reason, time.time(), unreachable)

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ChainUnreachableError("the chain was closed while a settlement waited for it")

    # One intent.

    def _carry(self, intent: Intent) -> TxReceipt:
        """Look and act until the intent is mined."""
        looks = _PATIENT_LOOKS if self._node.remote else 1
        watch = _Watch(looks, lambda: FeeBumper(self._node, self._relayer, self._max_fee))
        outage = self._outage
        while True:
            receipt = self._patiently(intent.epoch, lambda: self._step(intent, watch))
            if receipt is not None:
                self.waiting = None
                return receipt
            if watch.pause:
                self._say(intent.epoch, "its transaction is in no block yet")
            if time.monotonic() - watch.since - (self._outage - outage) > self._timeout:
                raise ChainError(self._too_late(intent))
            self._sleep(watch.pause)
            watch.pause = min(max(_FIRST_POLL, 1.5 * watch.pause), _LAST_POLL)

    def _too_late(self, intent: Intent) -> str:
        attempts = self._outbox.attempts(intent.id)
        name = f"transaction 0x{attempts[-1].hash.hex()}" if attempts else f"the settlement of epoch {intent.epoch}"
        fee = f", which pays up to {max_fee_of(attempts[-1].raw)} wei a gas," if len(attempts) > 1 else ""
        return f"{name}{fee} is not mined after {self._timeout:g} s (chain.confirmation_timeout)"

    def _step(self, intent: Intent, watch: _Watch) -> TxReceipt | None:
        """One look and what follows from it; the receipt once the report is settled."""
        nonce = self._node.mined_nonce(self._relayer.address)  # first: the state below is then not older
        last, changing = self._head(intent)
        if last >= intent.epoch:
            return self._found(intent, watch)
        if changing and self._fixed_members:
            raise ChainError(
                f"members asked to join or to leave task 0x{intent.task.hex()} while it runs: later committees are"
                " drawn from others than this run began with, and a run does not follow that yet"
            )
        earlier = self._outbox.signed(intent.contract, intent.task, last + 1) if last + 1 < intent.epoch else None
        if earlier is not None:  # taken back: it goes first
            self._carry(earlier)
            return None
        pending = self._outbox.attempts(intent.id, pending=True)
        if pending:
            self._look_after(intent, pending, nonce, watch)
        elif self._passes(intent, last):
            self._send(intent, self._sign(intent, self._node.nonce(self._relayer.address)), watch)
        return None

    def _head(self, intent: Intent) -> tuple[int, bool]:
        """Number of the task's last settled epoch, and whether members that join or leave wait."""
        answer = self._call(intent.contract, "EpochSettlement", "headOf", intent.task)
        try:
            ((_, _, (last_settled, *_, changing, _)),) = contract("EpochSettlement").decode("headOf", answer)
        except ValueError:  # the contract was there when the run began: a node amid a reorganization, or far behind
            raise ChainUnreachableError(f"no contract at {intent.contract} as the chain is told now") from None
        return last_settled, changing

    def _found(self, intent: Intent, watch: _Watch | None = None) -> TxReceipt | None:
        """Receipt of the transaction that settled the report, which is then journalled."""
        attempts = (attempt.hash for attempt in self._outbox.attempts(intent.id))
        for tx_hash in chain(attempts, self._logged(intent)):
            found = self._node.receipt(tx_hash)
            if found is not None and found[1]:
                inclusion = Inclusion(tx_hash, found[0].block, found[0].block_hash)
                if inclusion != self._outbox.inclusion(intent.id) or not self._outbox.is_in_a_block(intent.id):
                    self._outbox.mined(intent.id, inclusion)
                return found[0]
        if watch is None or not watch.believes("settled by another"):
            return None
        topics = [contract("EpochSettlement").event_topic("EpochAbandoned"), intent.task, word(intent.epoch)]
        if self._node.logs(intent.contract, topics):
            raise EpochAbandonedError(intent.epoch)
        raise ChainError(f"epoch {intent.epoch} of task 0x{intent.task.hex()} was settled by another report")

    def _logged(self, intent: Intent) -> Iterator[bytes]:
        """Hashes of transactions by which the report was settled, whoever sent them."""
        topics = [contract("EpochSettlement").event_topic("EpochSettled"), intent.task, word(intent.epoch)]
        for tx_hash, data in self._node.logs(intent.contract, topics):
            if data[:32] == intent.report:
                yield tx_hash

    def _call(self, address: str, name: str, function: str, *args: object) -> bytes:
        try:
            return self._node.call(address, contract(name).encode(function, *args), self._relayer.address)
        except Reverted as reverted:
            raise revert_error(f"{name}.{function} at {address}", reverted.data) from None

    def _passes(self, intent: Intent, last: int) -> bool:
        """Whether the contract would take the call; False when its state has just changed: a new look is due."""
        try:
            self._node.call(intent.contract, intent.data, self._relayer.address)
        except Reverted as reverted:
            if self._head(intent)[0] != last:
                return False
            raise revert_error(f"the settlement of epoch {intent.epoch}", reverted.data) from None
        return True

    # Its transactions.

    def _look_after(self, intent: Intent, pending: list[Attempt], mined_nonce: int, watch: _Watch) -> None:
        """The contract has not seen any of these attempts: find out why, and do what helps."""
        for attempt in pending:
            found = self._node.receipt(attempt.hash)
            if found is None:
                continue
            if not found[1]:
                self._reverted(intent, attempt, watch)
            return  # or it was mined since we asked
        first = min(attempt.nonce for attempt in pending)
        if watch.believes("nonce taken", mined_nonce > first):
            self._outbox.give_up(intent.id, first, "lost")
        elif mined_nonce < first:
            self._fill(intent, mined_nonce, watch)
        elif mined_nonce == first:
            self._hurry(intent, [attempt for attempt in pending if attempt.nonce == first], watch)

    def _reverted(self, intent: Intent, attempt: Attempt, watch: _Watch) -> None:
        self._outbox.give_up(intent.id, attempt.nonce, "reverted")
        watch.reverted += 1
        if watch.reverted >= _MAX_REVERTED:
            raise revert_error(f"transaction 0x{attempt.hash.hex()}", self._node.revert_data(attempt.hash))

    def _fill(self, intent: Intent, missing: int, watch: _Watch) -> None:
        """An earlier nonce is free again, and nothing of ours is mined before it is used."""
        holder = self._outbox.holder(missing)
        if holder is not None:
            self._hurry(holder, self._outbox.with_nonce(missing), watch)
        elif watch.believes("gap", self._node.nonce(self._relayer.address) <= missing):
            self._send(intent, self._sign(intent, missing, exactly=True), watch)

    def _hurry(self, intent: Intent, attempts: list[Attempt], watch: _Watch) -> None:
        """Its turn has come: hand it in again if it is lost, and pay more if it is passed over."""
        latest = attempts[-1]
        raw = watch.bids[latest.nonce].next([attempt.raw for attempt in attempts])
        if raw is not None:
            attempt = latest if raw == latest.raw else self._journalled(intent, latest.nonce, raw)
            self._send(intent, attempt, watch)

    def _send(self, intent: Intent, attempt: Attempt, watch: _Watch) -> None:
        watch.bids[attempt.nonce].send(attempt.raw, intent.epoch)
        self._outbox.sent(intent.id)
        watch.pause = 0.0

    def _sign(self, intent: Intent, nonce: int, exactly: bool = False) -> Attempt:
        """A new attempt, after every nonce that was ever used unless it shall have `exactly` this one."""
        nonce = nonce if exactly else max(nonce, self._outbox.next_nonce())
        max_fee, tip = fees_up_to(self._node, self._max_fee)
        node, address = self._node, self._relayer.address
        places = ("", "", intent.contract, "", "")
        context = TxContext(node.chain_id, nonce, max_fee, tip, node.balance(address), 0, *places)
        return self._journalled(intent, nonce, call(self._relayer, context, intent.contract, intent.data, intent.gas))

    def _journalled(self, intent: Intent, nonce: int, raw: bytes) -> Attempt:
        attempt = Attempt(nonce, keccak(raw), raw)
        self._outbox.sign(intent.id, attempt)
        return attempt

    # What is mined stays mined, or is sent again.

    def _recheck(self) -> None:
        """See that the blocks of settlements are still there and how sure they are; find those that were never seen."""
        intents = self._outbox.in_a_block(below=State.FINAL)
        if intents:
            safe, final = self._node.settled_head("safe"), self._node.settled_head("finalized")
        for intent in intents:
            seen = self._outbox.inclusion(intent.id)
            assert seen is not None
            found = self._node.receipt(seen.hash)
            if found is None or not found[1] or found[0].block_hash != seen.block_hash:
                self._carry(intent)
            elif seen.block <= final:
                self._outbox.mined(intent.id, seen, State.FINAL)
            elif seen.block <= safe:
                self._outbox.mined(intent.id, seen, State.SAFE)
        for intent in self._outbox.unfinished():
            self._found(intent)

    def _short_of(self, level: State) -> list[Intent]:
        """Settlements that are not as sure as that, where the chain knows it at all."""
        self._recheck()
        for intent in self._outbox.unfinished():
            if self._head(intent)[0] < intent.epoch:  # a crash came before it was sent again
                self._carry(intent)
        if level is not State.MINED and self._node.settled_head(level.value) < 0:
            return []
        return self._outbox.in_a_block(below=level)
