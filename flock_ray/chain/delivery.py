"""Has many signed transactions mined: sends them in groups, and collects the receipts of each group at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic, sleep

from flock_ray.chain.failures import revert_error
from flock_ray.chain.node import ChainNode
from flock_ray.chain.signed import called
from flock_ray.chain.values import TxReceipt
from flock_ray.errors import ChainError, ChainUnreachableError

_FIRST_POLL, _LAST_POLL = 0.01, 2.0  # seconds between two requests for receipts


def deliver(
    node: ChainNode,
    raws: Sequence[bytes],
    epoch: int,
    timeout: float,
    option: str,
    names: Sequence[str] = (),
    one_by_one: bool = False,
) -> list[TxReceipt]:
    """Send signed transactions in their order and wait until all are mined; what is mined already keeps its receipt.

    Args:
        node: the chain.
        raws: signed transactions. Those of several accounts may be mined in another order on an existing chain.
        epoch: see `ChainNode.send`.
        timeout: seconds until the transactions of a group must be mined.
        option: that sets it, for the error's text.
        names: of those who signed them; an error begins with that of the first one whose transaction failed.
        one_by_one: send none to an existing chain before the one before it is mined: that fixes their order.

    Returns:
        Their receipts.

    Raises:
        ChainError: one is refused, reverted (the text says why), or not mined in time.
    """
    receipts: list[TxReceipt] = []
    parts = [[raw] for raw in raws] if one_by_one and node.remote else [raws]
    try:
        for part in parts:
            for hashes in node.send_in_groups(part, epoch):
                for receipt in _receipts(node, hashes, timeout, option):
                    receipts.append(receipt)
    except ChainUnreachableError:
        raise
    except ChainError as error:
        if not names:
            raise
        failed = len(receipts)
        raise type(error)(f"{names[failed]}'s {called(raws[failed])}: {error}") from None
    assert len(receipts) == len(raws)
    return receipts


def _receipts(node: ChainNode, hashes: Sequence[bytes], timeout: float, option: str) -> Iterator[TxReceipt]:
    """Their receipts, each once it and all before it are mined."""
    deadline, pause, missing = monotonic() + timeout, _FIRST_POLL, list(hashes)
    while True:
        for mined in node.receipts(missing):
            if mined is None:
                break
            receipt, succeeded = mined
            if not succeeded:
                raise revert_error(f"transaction 0x{receipt.hash.hex()}", node.revert_data(receipt.hash))
            yield receipt
            missing.remove(receipt.hash)
        if not missing:
            return
        if monotonic() >= deadline:
            raise ChainError(f"transaction 0x{missing[0].hex()} is not mined after {timeout:g} s ({option})")
        sleep(pause)
        pause = min(1.5 * pause, _LAST_POLL)
