"""Waiting for the block whose hash makes a task's first seed."""

from __future__ import annotations

import time

from flock_ray.chain.node import ChainNode
from flock_ray.chain.reader import ChainReader
from flock_ray.errors import ChainError

_FIRST_POLL, _LAST_POLL = 0.05, 2.0  # seconds between two looks at the head


def await_seed(node: ChainNode, reader: ChainReader, task: bytes, timeout: float, option: str = "") -> None:
    """Wait until a starting task can be opened: its seed block has a successor, which knows its hash.

    A development chain mines only when asked to: it is asked for what is missing.

    Args:
        node: the chain.
        reader: of the contracts on it.
        task: id.
        timeout: seconds in which the chain must mine what is missing.
        option: that sets the timeout, for the error's text.

    Raises:
        ChainError: the chain stands still.
    """
    began, pause = time.monotonic(), _FIRST_POLL
    while reader.task_view(task).seed_block >= node.head():
        if node.mine():
            continue
        if time.monotonic() - began > timeout:
            raise ChainError(f"the chain has mined no block for {timeout:g} s{f' ({option})' if option else ''}")
        time.sleep(pause)
        pause = min(2 * pause, _LAST_POLL)
