"""Voter seats that were challenged to show their signature: which cases are open, by the settlement contract's logs."""

from __future__ import annotations

from dataclasses import dataclass

from eth_utils.address import to_checksum_address

from flock_ray.chain.abi import contract
from flock_ray.chain.history import history
from flock_ray.chain.node import ChainNode
from flock_ray.chain.reader import ChainReader

_SETTLEMENT = "EpochSettlement"
_REORGANIZED = 128  # blocks before the last head that are read again, since they may have been exchanged


@dataclass(frozen=True)
class Challenge:
    """A voter seat that was challenged to show its signature, and neither answered nor was slashed yet.

    Attributes:
        epoch: of the report.
        seat: number of the seat.
        owner: account that holds it.
        deadline: last Unix second, in chain time, until which nobody can slash it.
        slashable_from: Unix time from which it can be slashed; 0: nobody has announced that.
        report: struct hash of the report (32 bytes).
    """

    epoch: int
    seat: int
    owner: str
    deadline: int
    slashable_from: int
    report: bytes


class ChallengeIndex:
    """The open challenges of one task.

    The logs are read once, later looks read what is new. They only name the cases: how each one stands is asked.
    """

    def __init__(self, node: ChainNode, reader: ChainReader, task: bytes, first_block: int) -> None:
        """Look at a task.

        Args:
            node: the chain.
            reader: of the contracts on it.
            task: id.
            first_block: number of a block before the first challenge.
        """
        self._node, self._reader, self._task = node, reader, task
        self._first_block = self._next_block = first_block
        self._cases: set[tuple[int, int]] = set()  # (epoch, seat), neither answered nor seen to be over

    def open(self) -> list[Challenge]:
        """Those that are not over, newest epoch first: they can be answered."""
        head = self._node.head()
        self._read_logs()
        self._next_block = max(self._first_block, head - _REORGANIZED)
        found = []
        for epoch, seat in sorted(self._cases, reverse=True):
            case = self._reader.struct(_SETTLEMENT, "challengeOf", self._task, epoch, seat)
            if case["over"] or not case["deadline"]:
                self._cases.discard((epoch, seat))
                continue
            owner = to_checksum_address(case["owner"])
            found.append(Challenge(epoch, seat, owner, case["deadline"], case["slashableFrom"], case["reportHash"]))
        return found

    def _read_logs(self) -> None:
        compiled = contract(_SETTLEMENT)
        challenged, answered = map(compiled.event_topic, ("Challenged", "Answered"))
        address = self._reader.address_of(_SETTLEMENT)
        for topics, _ in history(self._node, address, [[challenged, answered], self._task], self._next_block):
            case = int.from_bytes(topics[2], "big"), int.from_bytes(topics[3], "big")
            if topics[0] == challenged:
                self._cases.add(case)
            else:
                self._cases.discard(case)
