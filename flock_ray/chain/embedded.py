"""Embedded chains, which belong to the run. Here: on an anvil process; `evm.py` has the one inside this process.

Transactions that are sent together share blocks, as many as their gas limits allow; any other has a block of its own. A
block's timestamp depends only on the epoch and its number: the same transactions in the same order give the same chain,
byte for byte, whatever the time and the machine. Each block is journalled; starting on the folder of an earlier chain
rebuilds that chain and compares the hashes of its blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import requests
from web3 import HTTPProvider, Web3

from flock_ray.chain.anvil import BASE_FEE, BLOCK_GAS, AnvilProcess
from flock_ray.chain.failures import NonceUsedError
from flock_ray.chain.http_node import HttpNode
from flock_ray.chain.journal import Block, ChainJournal, Genesis
from flock_ray.chain.node import MIN_TIP, ChainNode
from flock_ray.chain.signed import SignedTransaction, parse
from flock_ray.errors import ChainError, RunDirectoryError
from flock_ray.protocol.hashing import keccak

GENESIS_TIME = 1_700_000_000  # timestamp of block 0
SECONDS_PER_EPOCH = 600  # of chain time between two epochs
GAS_MONEY = 1_000 * 10**18  # wei that the genesis gives each funded address
ANVIL_CHAIN_ID = 31_337
ETH_TESTER_CHAIN_ID = 131_277_322_940_537  # fixed by eth-tester

_SHARED_GAS = (
    BLOCK_GAS // 2
)  # limits of the transactions that share a block: if more were used, the base fee would rise


class EmbeddedNode(ChainNode):
    """An embedded chain, kept in a journal and rebuilt from it."""

    def __init__(self, web3: Web3, journal: ChainJournal) -> None:
        super().__init__(web3, f"the embedded {self.backend}")
        self.chain_id = journal.genesis.chain_id
        self._journal = journal
        try:
            self._read_head()
            for block in journal.blocks:
                self._replay(block)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _begin_block(self, timestamp: int) -> None:
        """Set the time of the next block."""

    @abstractmethod
    def _end_block(self) -> None:
        """Mine a block with the transactions that were handed over since the last one."""

    @abstractmethod
    def _drop_block(self) -> None:
        """Undo the last block."""

    def _read_head(self) -> list[bytes]:
        """Look at the last block; returns the hashes of its transactions."""
        with self._reach():
            block = self._web3.eth.get_block("latest")
        self._number, self._time, self._hash = block["number"], block["timestamp"], bytes(block["hash"])
        return [bytes(tx_hash) for tx_hash in block["transactions"]]  # type: ignore[arg-type]

    def _replay(self, block: Block) -> None:
        try:
            _, refused = self._mine(block.raws, block.timestamp)
            if refused:
                raise refused
        except ChainError as error:
            raise RunDirectoryError(
                f"block {block.number} of the chain's journal cannot be replayed: {error}"
            ) from None
        if self._hash != block.hash:
            raise RunDirectoryError(f"block {block.number} of the chain's journal, replayed, gives another chain")

    def _mine(self, raws: Sequence[bytes], timestamp: int) -> tuple[list[bytes], ChainError | None]:
        """Mine a block with these transactions, up to one that is refused.

        Returns:
            Their hashes, none where there is no block, and why the next one was refused.
        """
        sent = list[bytes]()
        refused: ChainError | None = None
        self._begin_block(timestamp)
        try:
            for raw in raws:
                sent.append(self._send_raw(raw, parse(raw)))
        except ChainError as error:
            refused = error
        if sent:
            self._end_block()
            if self._read_head() != sent or self._time != timestamp:
                raise ChainError(f"{self._name} mined another block than it was asked for")
        return sent, refused

    def _mine_next(self, raws: Sequence[bytes], epoch: int) -> tuple[list[bytes], ChainError | None]:
        """Mine new transactions and journal their blocks; see `_mine`. One that reverts is the last one."""
        number = self._number + 1
        timestamp = max(GENESIS_TIME + SECONDS_PER_EPOCH * epoch + number, self._time + 1)
        mined, refused = self._mine(raws, timestamp)
        reverted = [index for index, one in enumerate(self.receipts(mined)) if one is not None and not one[1]]
        if reverted and len(mined) > 1:  # again, with a block of its own: `revert_data` looks at the state before it
            self._drop_block()
            self._read_head()
            end = reverted[0]
            before = self._mine_next(raws[:end], epoch)[0] if end else []
            return before + self._mine_next([raws[end]], epoch)[0], None
        if mined:
            self._journal.append(Block(number, timestamp, tuple(raws[: len(mined)]), self._hash))
        return mined, refused

    def send(self, raw: bytes, epoch: int) -> bytes:
        """See `ChainNode.send`; mined at once, usually in a block of time GENESIS_TIME + 600 * epoch + its number."""
        ((tx_hash,),) = self.send_in_groups([raw], epoch)
        return tx_hash

    def send_in_groups(self, raws: Sequence[bytes], epoch: int) -> Iterator[list[bytes]]:
        """See `ChainNode.send_in_groups`: a block at a time. Nothing is sent after a transaction that reverts."""
        for group in _groups(raws):
            with self._lock:
                sent, refused = self._send_group(group, epoch)
            if sent:
                yield sent
            if refused:
                raise refused
            if len(sent) < len(group):
                return

    def _send_group(
        self, group: Mapping[bytes, tuple[bytes, SignedTransaction]], epoch: int
    ) -> tuple[list[bytes], ChainError | None]:
        """Mine those transactions that the chain does not have yet; hashes of all, and an error, as of `_mine`."""
        senders = sorted({parsed.sender for _, parsed in group.values()})
        nonces = dict(zip(senders, self.nonces(senders), strict=True))
        done, new = set[bytes](), list[bytes]()
        refused: ChainError | None = None
        for tx_hash, (raw, parsed) in group.items():
            expected = nonces[parsed.sender]
            if parsed.nonce < expected and self.has(tx_hash):
                done.add(tx_hash)
            elif parsed.nonce == expected:
                nonces[parsed.sender] += 1
                new.append(raw)
            else:  # anvil would keep it for later
                told = f"nonce {parsed.nonce}, expected {expected}"
                refused = NonceUsedError(f"a transaction of {parsed.sender} comes out of turn: {told}")
                break
        if new:
            mined, refused_by_node = self._mine_next(new, epoch)
            done.update(mined)
            refused = refused_by_node or (refused if len(mined) == len(new) else None)
        return list(takewhile(done.__contains__, group)), refused

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
        self._anvil = AnvilProcess(genesis, port, automine=False)
        session = requests.Session()
        session.trust_env = False  # a proxy is of no use on this machine
        try:
            journal = ChainJournal(folder, genesis)
        except BaseException:
            self._anvil.close()
            raise
        super().__init__(Web3(HTTPProvider(self._anvil.url, session=session)), journal)

    def _begin_block(self, timestamp: int) -> None:
        self._request("evm_setNextBlockTimestamp", [timestamp])

    def _end_block(self) -> None:
        self._request("evm_mine", [])

    def _drop_block(self) -> None:
        with self._reach():
            base_fee = self._web3.eth.get_block("latest")["baseFeePerGas"]
        self._request("anvil_rollback", [1])
        self._request("anvil_setNextBlockBaseFeePerGas", [hex(base_fee)])  # a rollback keeps that of a block later

    def close(self) -> None:
        """End the process and close the journal."""
        self._anvil.close()
        super().close()


def new_genesis(backend: str, chain_id: int, funded: Sequence[str]) -> Genesis:
    """Genesis of a chain that gives the `funded` addresses gas money."""
    return Genesis(backend, chain_id, GENESIS_TIME, {address: GAS_MONEY for address in sorted(set(funded))})


def _groups(raws: Sequence[bytes]) -> Iterator[dict[bytes, tuple[bytes, SignedTransaction]]]:
    """Transactions that share a block, by their hashes."""
    group: dict[bytes, tuple[bytes, SignedTransaction]] = {}
    gas = 0
    for raw in raws:
        parsed = parse(raw)
        if group and gas + parsed.gas > _SHARED_GAS:
            yield group
            group, gas = {}, 0
        group[keccak(raw)] = raw, parsed
        gas += parsed.gas
    if group:
        yield group
