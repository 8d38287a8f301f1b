"""All logs of a contract, read in as few requests as a node allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flock_ray.chain.failures import RefusedError
from flock_ray.chain.node import LOG_WINDOW, ChainNode


def history(
    node: ChainNode, address: str, topics: Sequence[bytes | Sequence[bytes] | None], first: int
) -> list[tuple[list[bytes], bytes]]:
    """(topics, data) of all logs of a contract from a block on that have these first topics, oldest first.

    Nodes bound a request in different ways: all blocks are asked for at once, and in windows where that is refused.

    Args:
        node: the chain.
        address: of the contract.
        topics: see `ChainNode.logs_in`.
        first: number of the first block.
    """
    head = node.head()
    try:
        return [_values(log) for log in node.logs_in(address, topics, first, head)]
    except RefusedError:
        return [
            _values(log)
            for start in range(first, head + 1, LOG_WINDOW)
            for log in node.logs_in(address, topics, start, min(start + LOG_WINDOW - 1, head))
        ]


def _values(log: Mapping[str, Any]) -> tuple[list[bytes], bytes]:
    return [bytes(topic) for topic in log["topics"]], bytes(log["data"])
