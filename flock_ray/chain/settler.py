"""Settles epochs exactly once: reads the contract first, then the journal, and only then sends anything.

The next step is decided from the chain's current state each time, so a crash, a lost answer, a lagging node or a
reorganization needs no special case. Nothing is skipped: an epoch that cannot be settled ends in an error.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import chain
from threading import Event
from typing import NoReturn, TypeVar

from flock_ray.chain.abi import contract
from flock_ray.chain.eip712 import report_hash
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.failures import revert_error
from flock_ray.chain.fee_bumper import FeeBumper, fees_up_to
from flock_ray.chain.keys import Signer
from flock_ray.chain.node import ChainNode, Reverted
from flock_ray.chain.outbox import Attempt, Inclusion, Intent, Outbox, State, intent_id
from flock_ray.chain.rollup import data_fee_line
from flock_ray.chain.transactions import call, max_fee_of, settle_call, settle_gas
from flock_ray.chain.values import EpochAbandonedError, TxContext, TxReceipt, Waiting
from flock_ray.errors import ChainError, ChainUnreachableError
from flock_ray.protocol.hashing import keccak, word

_FIRST_POLL, _LAST_POLL = 0.05, 2.0  # seconds between two polls
_FIRST_BACKOFF, _LAST_BACKOFF = 0.25, 5.0  # seconds between two tries to reach the chain
_MAX_REVERTED = 2  # attempts of one call that may revert
_REMOTE_LOOKS = 5  # polls before a contradiction counts: a lagging or reorganized chain may show one for a while

T = TypeVar("T")


class _Watch:
    """What a call of `Settler.settle` has observed of an intent so far."""

    def __init__(self, looks: int, new_bumper: Callable[[], FeeBumper]) -> None:
        self.since = time.monotonic()
        self.pause = 0.0
        self.bids = defaultdict[int, FeeBumper](new_bumper)  # by nonce
        self.reverted = 0
        self._looks = looks
        self._contradictions: dict[str, int] = {}

    def persists(self, what: str, seen: bool = True) -> bool:
        """Whether a contradiction was seen in enough polls in a row to count."""
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
    ) -> None:
        """Settle through `node`.

        Args:
            node: the chain.
            relayer: the key; nobody else may send with it.
            outbox: the journal.
            timeout: seconds to wait for a receipt while the chain answers.
            max_fee: most to pay, wei a gas.
        """
        self._node = node
        self._relayer = relayer
        self._outbox = outbox
        self._timeout = timeout
        self._max_fee = max_fee
        self._outage = 0.0
        self._closed = Event()
        self.waiting: Waiting | None = None

    def settle(
        self,
        settlement: str,
        report: Report,
        seats: int,
        signatures: bytes,
        work: tuple[int, int] = (0, 0),
    ) -> TxReceipt:
        """Settle an epoch, or return the receipt if this report settled it already. Waits while the chain is away.

        Args:
            settlement: address of EpochSettlement.
            report: of the epoch after the last settled, or one whose predecessors are in the journal.
            seats: bitmap of the voter seats that signed.
            signatures: EIP-2098, 64 bytes each, in the order of seats.
            work: that of members that join or leave with this epoch and the next (`Roster.work`).

        Raises:
            EpochAbandonedError: the epoch was abandoned before.
            ChainError: the contract refuses the report (the text names its custom error) or settled another one, or
                the transaction was not mined in time; a repeated call continues with the same transaction.
            FundsError: the relayer cannot pay.
            ChainUnreachableError: the settler was closed while it waited.
        """
        digest = report_hash(report)
        name = intent_id(self._node.chain_id, settlement, digest)
        data, gas = settle_call(report, seats, signatures), settle_gas(report, seats, work)
        return self.enact(Intent(name, settlement, report.task, report.epoch, digest, data, gas))

    def enact(self, intent: Intent) -> TxReceipt:
        """See that an intent takes effect once; as `settle`, which makes one."""
        self._outbox.plan(intent)
        self._with_retries(intent.epoch, self._recheck)
        return self._complete(intent)

    def confirm(self, level: State) -> dict[int, TxReceipt]:
        """Wait until every settlement of the journal is as final as `level`; a reorganized one is sent again.

        Returns:
            {epoch: receipt} of every settlement.

        Raises:
            ChainError: see `settle`.
        """
        pause = _FIRST_POLL
        while missing := self._with_retries(0, lambda: self._less_final_than(level)):
            epoch = missing[0].epoch
            self._set_waiting(epoch, f"the block that settled it is not {level.value} yet")
            self._sleep(pause)
            pause = min(2 * pause, _LAST_BACKOFF)
        self.waiting = None
        receipts = {intent.epoch: self._complete(intent) for intent in self._outbox.in_a_block()}
        return dict(sorted(receipts.items()))

    def close(self) -> None:
        """Stop waiting and close the journal."""
        self._closed.set()
        self._outbox.close()

    # The chain away or back.

    def _with_retries(self, epoch: int, request: Callable[[], T]) -> T:
        """The result of `request`, retried while a remote chain does not answer."""
        pause, began = _FIRST_BACKOFF, time.monotonic()
        while True:
            try:
                answer = request()
            except ChainUnreachableError as error:
                if not self._node.remote or self._closed.is_set():
                    raise
                self._set_waiting(epoch, str(error), unreachable=True)
                self._sleep(pause)
                pause = min(2 * pause, _LAST_BACKOFF)
            else:
                if self.waiting is not None and self.waiting.unreachable:
                    self._outage += time.monotonic() - began
                    self.waiting = None
                return answer

    def _set_waiting(self, epoch: int, reason: str, unreachable: bool = False) -> None:
        now = self.waiting
        if now is None or (now.epoch, now.unreachable) != (epoch, unreachable):
            self.waiting = Waiting(epoch, reason, time.time(), unreachable)

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ChainUnreachableError("the chain was closed while a settlement waited for it")

    # One intent.

    def _complete(self, intent: Intent) -> TxReceipt:
        """Poll and act until the intent is mined."""
        looks = _REMOTE_LOOKS if self._node.remote else 1
        watch = _Watch(looks, lambda: FeeBumper(self._node, self._relayer, self._max_fee))
        outage = self._outage
        while True:
            receipt = self._with_retries(intent.epoch, lambda: self._step(intent, watch))
            if receipt is not None:
                self.waiting = None
                return receipt
            if watch.pause:
                self._set_waiting(intent.epoch, "its transaction is in no block yet")
            if time.monotonic() - watch.since - (self._outage - outage) > self._timeout:
                raise ChainError(self._timeout_text(intent))
            self._sleep(watch.pause)
            watch.pause = min(max(_FIRST_POLL, 1.5 * watch.pause), _LAST_POLL)

    def _timeout_text(self, intent: Intent) -> str:
        attempts = self._outbox.attempts(intent.id)
        name = f"transaction 0x{attempts[-1].hash.hex()}" if attempts else self._name(intent)
        fee = f", which pays up to {max_fee_of(attempts[-1].raw)} wei a gas," if len(attempts) > 1 else ""
        return f"{name}{fee} is not mined after {self._timeout:g} s (chain.confirmation_timeout)"

    def _step(self, intent: Intent, watch: _Watch) -> TxReceipt | None:
        """Poll once and act on the result; the receipt once the report is settled."""
        nonce = self._node.mined_nonce(self._relayer.address)  # first: the state below is then not older
        last = self._last_settled(intent)
        if last >= intent.epoch:
            return self._find_receipt(intent, watch)
        earlier = self._outbox.signed(intent.contract, intent.task, last + 1) if last + 1 < intent.epoch else None
        if earlier is not None:  # lost in a reorganization: it goes first
            self._complete(earlier)
            return None
        pending = self._outbox.attempts(intent.id, pending=True)
        if pending:
            self._handle_pending(intent, pending, nonce, watch)
        elif self._passes(intent, last):
            self._send(intent, self._sign(intent, self._node.nonce(self._relayer.address)), watch)
        return None

    # What is settled: epochs here; a subclass may settle other things, one after the other.

    def _name(self, intent: Intent) -> str:
        return f"the settlement of epoch {intent.epoch}"

    def _last_settled(self, intent: Intent) -> int:
        """Number of the task's last settled epoch."""
        answer = self._call(intent.contract, "EpochSettlement", "headOf", intent.task)
        try:
            ((_, _, (last_settled, *_)),) = contract("EpochSettlement").decode("headOf", answer)
        except ValueError:  # the contract existed when the run began: the node lags far behind, or reorganizes
            raise ChainUnreachableError(f"no contract at {intent.contract} in the chain's current state") from None
        return int(last_settled)

    def _refuse(self, intent: Intent) -> NoReturn:
        """Raise the error of an intent whose place another took."""
        topics = [contract("EpochSettlement").event_topic("EpochAbandoned"), intent.task, word(intent.epoch)]
        if self._node.logs(intent.contract, topics):
            raise EpochAbandonedError(intent.epoch)
        raise ChainError(f"epoch {intent.epoch} of task 0x{intent.task.hex()} was settled by another report")

    def _logged(self, intent: Intent) -> Iterator[bytes]:
        """Hashes of transactions that settled the report, whoever sent them."""
        topics = [contract("EpochSettlement").event_topic("EpochSettled"), intent.task, word(intent.epoch)]
        for tx_hash, data in self._node.logs(intent.contract, topics):
            if data[:32] == intent.report:
                yield tx_hash

    def _find_receipt(self, intent: Intent, watch: _Watch | None = None) -> TxReceipt | None:
        """Receipt of the transaction that settled the report, recorded in the journal; None if there is none yet."""
        attempts = (attempt.hash for attempt in self._outbox.attempts(intent.id))
        for tx_hash in chain(attempts, self._logged(intent)):
            mined = self._node.receipt(tx_hash)
            if mined is not None and mined[1]:
                inclusion = Inclusion(tx_hash, mined[0].block, mined[0].block_hash)
                if inclusion != self._outbox.inclusion(intent.id) or not self._outbox.is_in_a_block(intent.id):
                    self._outbox.mined(intent.id, inclusion)
                return mined[0]
        if watch is None or not watch.persists("settled by another"):
            return None
        self._refuse(intent)

    def _call(self, address: str, name: str, function: str, *args: object) -> bytes:
        try:
            return self._node.call(address, contract(name).encode(function, *args), self._relayer.address)
        except Reverted as reverted:
            raise revert_error(f"{name}.{function} at {address}", reverted.data) from None

    def _passes(self, intent: Intent, last: int) -> bool:
        """Whether the contract would accept the call; False if its state has just changed, so poll again."""
        try:
            self._node.call(intent.contract, intent.data, self._relayer.address)
        except Reverted as reverted:
            if self._last_settled(intent) != last:
                return False
            raise revert_error(self._name(intent), reverted.data) from None
        return True

    # Its transactions.

    def _handle_pending(self, intent: Intent, pending: list[Attempt], mined_nonce: int, watch: _Watch) -> None:
        """Handle attempts that the contract has not seen: find out why, and act on it."""
        for attempt in pending:
            mined = self._node.receipt(attempt.hash)
            if mined is None:
                continue
            if not mined[1]:
                self._reverted(intent, attempt, watch)
            return  # reverted, or mined since the contract was read
        first = min(attempt.nonce for attempt in pending)
        if watch.persists("nonce taken", mined_nonce > first):
            self._outbox.give_up(intent.id, first, "lost")
        elif mined_nonce < first:
            self._fill_gap(intent, mined_nonce, watch)
        elif mined_nonce == first:
            self._resubmit(intent, [attempt for attempt in pending if attempt.nonce == first], watch)

    def _reverted(self, intent: Intent, attempt: Attempt, watch: _Watch) -> None:
        self._outbox.give_up(intent.id, attempt.nonce, "reverted")
        watch.reverted += 1
        if watch.reverted >= _MAX_REVERTED:
            raise revert_error(f"transaction 0x{attempt.hash.hex()}", self._node.revert_data(attempt.hash))

    def _fill_gap(self, intent: Intent, missing: int, watch: _Watch) -> None:
        """Fill an earlier nonce that became free again: later ones are not mined before it is used."""
        holder = self._outbox.holder(missing)
        if holder is not None:
            self._resubmit(holder, self._outbox.with_nonce(missing), watch)
        elif watch.persists("gap", self._node.nonce(self._relayer.address) <= missing):
            self._send(intent, self._sign(intent, missing, exactly=True), watch)

    def _resubmit(self, intent: Intent, attempts: list[Attempt], watch: _Watch) -> None:
        """Its nonce is next: send it again if it was lost, and pay more if it is passed over."""
        latest = attempts[-1]
        raw = watch.bids[latest.nonce].next([attempt.raw for attempt in attempts])
        if raw is not None:
            attempt = latest if raw == latest.raw else self._record_attempt(intent, latest.nonce, raw)
            self._send(intent, attempt, watch)

    def _send(self, intent: Intent, attempt: Attempt, watch: _Watch) -> None:
        watch.bids[attempt.nonce].send(attempt.raw, intent.epoch)
        self._outbox.sent(intent.id)
        watch.pause = 0.0

    def _sign(self, intent: Intent, nonce: int, exactly: bool = False) -> Attempt:
        """A new attempt, with a nonce after all that were ever used, or with `exactly` this one."""
        nonce = nonce if exactly else max(nonce, self._outbox.next_nonce())
        max_fee, tip = fees_up_to(self._node, self._max_fee)
        node, address = self._node, self._relayer.address
        places = ("", "", intent.contract, "", "")
        fee, per_byte = data_fee_line(node, address)
        context = TxContext(
            node.chain_id, nonce, max_fee, tip, node.balance(address), 0, *places,
            data_fee=fee, data_fee_per_byte=per_byte,
        )  # fmt: skip
        return self._record_attempt(
            intent, nonce, call(self._relayer, context, intent.contract, intent.data, intent.gas)
        )

    def _record_attempt(self, intent: Intent, nonce: int, raw: bytes) -> Attempt:
        attempt = Attempt(nonce, keccak(raw), raw)
        self._outbox.sign(intent.id, attempt)
        return attempt

    # Reorganizations and finality.

    def _recheck(self) -> None:
        """Check that the blocks of settlements still exist and how final they are; find settlements not yet seen."""
        intents = self._outbox.in_a_block(below=State.FINAL)
        if intents:
            safe, final = self._node.settled_head("safe"), self._node.settled_head("finalized")
        for intent in intents:
            seen = self._outbox.inclusion(intent.id)
            assert seen is not None
            mined = self._node.receipt(seen.hash)
            if mined is None or not mined[1] or mined[0].block_hash != seen.block_hash:
                self._complete(intent)
            elif seen.block <= final:
                self._outbox.mined(intent.id, seen, State.FINAL)
            elif seen.block <= safe:
                self._outbox.mined(intent.id, seen, State.SAFE)
        for intent in self._outbox.unfinished():
            self._find_receipt(intent)

    def _less_final_than(self, level: State) -> list[Intent]:
        """Settlements that are less final than `level`; none if the chain does not have such a level."""
        self._recheck()
        for intent in self._outbox.unfinished():
            if self._last_settled(intent) < intent.epoch:  # a crash came before it was sent again
                self._complete(intent)
        if level is not State.MINED and self._node.settled_head(level.value) < 0:
            return []
        return self._outbox.in_a_block(below=level)
