"""Gets a transaction into a block: sends it, sends it again if it was lost, replaces it if it is passed over."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.chain.failures import NonceUsedError, UnderpricedError
from flock_ray.chain.keys import Signer
from flock_ray.chain.node import ChainNode
from flock_ray.chain.transactions import max_fee_of, outbid
from flock_ray.protocol.hashing import keccak

MAX_REPLACEMENTS = 8  # per nonce
STUCK_BLOCKS = 10  # blocks to wait for a transaction before it is replaced


def fees_up_to(node: ChainNode, limit: int) -> tuple[int, int]:
    """(max_fee, tip) for a transaction made now, wei a gas, neither above `limit`."""
    max_fee, tip = node.fees()
    return min(max_fee, limit), min(tip, limit)


class FeeBumper:
    """Sends and replaces an account's transaction of one nonce."""

    def __init__(self, node: ChainNode, signer: Signer, limit: int) -> None:
        """Prepare; sends nothing yet.

        Args:
            node: the chain.
            signer: the account.
            limit: most to pay, wei a gas.
        """
        self._node = node
        self._signer = signer
        self._limit = limit
        self._since_block: int | None = None
        self._cheap = False

    def send(self, raw: bytes, epoch: int) -> None:
        """Send a transaction.

        Args:
            raw: signed transaction.
            epoch: see `ChainNode.send`.

        Raises:
            FundsError: the account cannot pay.
            ChainError: the node refuses it for a reason other than a low fee or a used nonce.
        """
        self._cheap = False
        try:
            self._node.send(raw, epoch)
        except NonceUsedError:
            pass  # by one of ours or by another process: the next poll shows which
        except UnderpricedError:
            self._cheap = True

    def next(self, raws: Sequence[bytes]) -> bytes | None:
        """The transaction to send now that none of `raws` is mined although their nonce is next.

        Args:
            raws: signed transactions with this nonce, oldest first.

        Returns:
            A replacement that pays at least 12.5 % more, if the last one was refused as too cheap or is passed over;
            the last one again, if the chain knows none of them; None to keep waiting.
        """
        latest, head = raws[-1], self._node.head()
        if self._since_block is None:
            self._since_block = head
        max_fee, tip = fees_up_to(self._node, self._limit)
        passed_over = head - self._since_block >= STUCK_BLOCKS or max_fee_of(latest) < max_fee // 2
        if (self._cheap or passed_over) and len(raws) <= MAX_REPLACEMENTS:
            raised = outbid(self._signer, latest, max_fee, tip)
            if max_fee_of(raised) <= self._limit:
                self._since_block = None
                return raised
        return None if any(self._node.has(keccak(raw)) for raw in raws) else latest
