"""Embedded chains, which belong to the run. Here: on an anvil process; `evm.py` has the one inside this process.

Each transaction gets a block of its own, with a timestamp that depends only on the epoch and the block's number: the
same transactions in the same order give the same chain, byte for byte, whatever the time and the machine. Each block is
journalled; starting on the folder of an earlier chain rebuilds that chain and compares the hashes of its blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

import requests
from web3 import HTTPProvider, Web3

from flock_ray.chain.anvil import BASE_FEE, AnvilProcess
from flock_ray.chain.failures import NonceUsedError
from flock_ray.chain.http_node import HttpNode
from flock_ray.chain.journal import Block, ChainJournal, Genesis
from flock_ray.chain.node import MIN_TIP, ChainNode
from flock_ray.chain.signed import parse
from flock_ray.errors import ChainError, RunDirectoryError
from flock_ray.protocol.hashing import keccak

GENESIS_TIME = 1_700_000_000  # timestamp of block 0
SECONDS_PER_EPOCH = 600  # of chain time between two epochs
GAS_MONEY = 1_000 * 10**18  # wei that the genesis gives each funded address
ANVIL_CHAIN_ID = 31_337
ETH_TESTER_CHAIN_ID = 131_277_322_940_537  # fixed by eth-tester

_MINING_TIMEOUT = 30.0  # seconds; it takes milliseconds


class EmbeddedNode(ChainNode):
    """An embedded chain: one block per transaction, kept in a journal and rebuilt from it."""

    def __init__(self, web3: Web3, journal: ChainJournal) -> None:
        super().__init__(web3, f"the embedded {self.backend}")
        self.chain_id = journal.genesis.chain_id
        self._journal = journal
        self._number = 0
        self._time = journal.genesis.timestamp
        try:
            for block in journal.blocks:
                self._replay(block)
        except BaseException:
            self.close()
            raise

    def _replay(self, block: Block) -> None:
        try:
            same = self._mine(block.raw, block.timestamp) == block.hash
        except ChainError as error:
            raise RunDirectoryError(
                f"block {block.number} of the chain's journal cannot be replayed: {error}"
            ) from None
        if not same:
            raise RunDirectoryError(f"block {block.number} of the chain's journal, replayed, gives another chain")

    @abstractmethod
    def _next_timestamp(self, timestamp: int) -> None:
        """Set the clock of the next block."""

    def _mine(self, raw: bytes, timestamp: int) -> bytes:
        """Mine a block with one transaction and return the block's hash."""
        self._next_timestamp(timestamp)
        tx_hash = self._send_raw(raw, parse(raw))
        deadline = monotonic() + _MINING_TIMEOUT
        while self.receipt(tx_hash) is None:
            if monotonic() > deadline:
                raise ChainError(f"{self._name} did not mine a transaction within {_MINING_TIMEOUT:.0f} s")
            sleep(0.001)
        with self._reach():
            block = self._web3.eth.get_block("latest")
        self._number, self._time = block["number"], block["timestamp"]
        return bytes(block["hash"])

    def send(self, raw: bytes, epoch: int) -> bytes:
        """See `ChainNode.send`; mined at once, usually in a block of time GENESIS_TIME + 600 * epoch + its number."""
        tx_hash = keccak(raw)
        if self.has(tx_hash):
            return tx_hash
        parsed = parse(raw)
        expected = self.nonce(parsed.sender)
        if parsed.nonce != expected:  # anvil would keep it for later
            told = f"nonce {parsed.nonce}, expected {expected}"
            raise NonceUsedError(f"a transaction of {parsed.sender} comes out of turn: {told}")
        number = self._number + 1
        timestamp = max(GENESIS_TIME + SECONDS_PER_EPOCH * epoch + number, self._time + 1)
        block_hash = self._mine(raw, timestamp)
        self._journal.append(Block(number, timestamp, raw, block_hash))
        return tx_hash

    def fees(self) -> tuple[int, int]:
        """Constant, so that no signed byte depends on the order of blocks: base fees only fall from the genesis on."""
        return 2 * BASE_FEE + MIN_TIP, MIN_TIP

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


class AnvilNode(HttpNode, EmbeddedNode):
    """An embedded chain on an anvil process that this process starts and ends."""

    backend = "anvil"

    def __init__(self, folder: Path, funded: Sequence[str], chain_id: int = 0, port: int = 0) -> None:
        """Start, or rebuild from `folder`, a chain that gives the `funded` addresses gas money.

        Args:
            folder: of the journal.
            funded: addresses.
            chain_id: 0 for anvil's own.
            port: 0 for any free one.

        Raises:
            ChainUnreachableError: anvil is missing, or the port is taken.
        """
        genesis = new_genesis(self.backend, chain_id or ANVIL_CHAIN_ID, funded)
        self._anvil = AnvilProcess(genesis, port)
        session = requests.Session()
        session.trust_env = False  # a proxy is of no use on this machine
        try:
            journal = ChainJournal(folder, genesis)
        except BaseException:
            self._anvil.close()
            raise
        super().__init__(Web3(HTTPProvider(self._anvil.url, session=session)), journal)

    def _next_timestamp(self, timestamp: int) -> None:
        self._request("evm_setNextBlockTimestamp", [timestamp])

    def close(self) -> None:
        """End the process and close the journal."""
        self._anvil.close()
        super().close()


def new_genesis(backend: str, chain_id: int, funded: Sequence[str]) -> Genesis:
    """Genesis of a chain that gives the `funded` addresses gas money."""
    return Genesis(backend, chain_id, GENESIS_TIME, {address: GAS_MONEY for address in sorted(set(funded))})
