"""Settles a gateway's batches exactly once, as the relayer settles epochs: the chain first, then the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

from flock_ray.chain.abi import contract
from flock_ray.chain.outbox import Intent, intent_id
from flock_ray.chain.settler import Settler
from flock_ray.chain.usage import UsageBatch
from flock_ray.chain.usage_calls import settle_batch
from flock_ray.chain.values import TxReceipt
from flock_ray.errors import ChainError, ChainUnreachableError
from flock_ray.protocol.hashing import keccak, word

_SETTLE_GAS = 160_000  # measured: 121,000


class UsageSettler(Settler):
    """A gateway's sending side: its key and its journal are for batches only."""

    _check: tuple[bytes, Callable[[], None]] | None = None  # of the intent with this id

    def settle_batch(self, batch: UsageBatch, check: Callable[[], None] = lambda: None) -> TxReceipt:
        """Settle a batch, or return the receipt if it is settled already. Waits while the chain is away.

        Args:
            batch: the batch.
            check: is called before a transaction is signed while no other one of the gateway is on its way. What it
                raises ends the call: then the batch does not come onto the chain, unless it is settled again.

        Raises:
            ChainError: the contract refuses the batch, another was settled under its number, or it is not mined in
                time; a repeated call continues with the same transaction.
            FundsError: the gateway cannot pay.
        """
        at, chain_id = batch.domain.contract, self._node.chain_id
        roots = batch.charges.root + batch.payouts.root
        digest = keccak(batch.price_book + roots + word(batch.tables.total))
        name = intent_id(chain_id, at, keccak(batch.series + word(batch.number) + word(self._voids(batch)) + digest))
        self._check = name, check
        return self.enact(Intent(name, at, batch.series, batch.number, digest, settle_batch(batch).data, _SETTLE_GAS))

    def _passes(self, intent: Intent, last: int) -> bool:
        if not super()._passes(intent, last):
            return False
        node, gateway = self._node, self._relayer.address
        if self._check is not None and self._check[0] == intent.id and node.nonce(gateway) == node.mined_nonce(gateway):
            self._check[1]()
        return True

    def _voids(self, batch: UsageBatch) -> int:
        """How often batches of the series were voided: the same batch may have to be settled again after that."""
        topics = [contract("UsageSettlement").event_topic("BatchesVoided"), batch.series]
        return len(self._node.logs(batch.domain.contract, topics))

    def _name(self, intent: Intent) -> str:
        return f"the settlement of batch {intent.epoch}"

    def _last_settled(self, intent: Intent) -> int:
        answer = self._call(intent.contract, "UsageSettlement", "booksOf", intent.task)
        try:
            ((_, _, last, _),) = contract("UsageSettlement").decode("booksOf", answer)
        except ValueError:
            raise ChainUnreachableError(f"no contract at {intent.contract} in the chain's current state") from None
        return int(last)

    def _logged(self, intent: Intent) -> Iterator[bytes]:
        topics = [contract("UsageSettlement").event_topic("BatchSettled"), intent.task, word(intent.epoch)]
        for tx_hash, data in self._node.logs(intent.contract, topics):
            if keccak(data) == intent.report:
                yield tx_hash

    def _refuse(self, intent: Intent) -> NoReturn:
        raise ChainError(f"batch {intent.epoch} of series 0x{intent.task.hex()} was settled with other roots")
