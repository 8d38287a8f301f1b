"""An embedded chain on py-evm, in this process.

A separate module, so that a chain on an anvil or behind an RPC need not wait for its imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed, ValidationError
from eth_utils.address import to_canonical_address
from eth_utils.exceptions import ValidationError as EvmValidationError
from web3 import EthereumTesterProvider, Web3

from flock_ray.chain.embedded import ETH_TESTER_CHAIN_ID, EmbeddedNode, new_genesis
from flock_ray.chain.failures import RefusedError
from flock_ray.chain.journal import ChainJournal, Genesis
from flock_ray.chain.node import ChainNode, Reverted
from flock_ray.protocol.hashing import keccak, word


class PlainBackend(PyEVMBackend):  # type: ignore[misc]
    """Eth-tester's EVM without its only source of randomness, the prevrandao of each block."""

    def mine_blocks(self, num_blocks: int = 1, coinbase: bytes = bytes(20)) -> tuple[bytes, ...]:
        """Mine, with a prevrandao that follows from the block's number."""
        return tuple(
            self.chain.mine_block(
                coinbase=coinbase, mix_hash=keccak(word(self.chain.header.block_number)), blob_gas_used=0
            ).hash
            for _ in range(num_blocks)
        )


def new_backend(genesis: Genesis) -> PlainBackend:
    """An EVM at block 0 of a chain."""
    parameters = PyEVMBackend.generate_genesis_params({"timestamp": genesis.timestamp})
    alloc = {
        to_canonical_address(address): {"balance": balance, "nonce": 0, "code": b"", "storage": {}}
        for address, balance in genesis.alloc.items()
    }
    return PlainBackend(genesis_parameters=parameters, genesis_state=alloc)


class PyEvmNode(ChainNode):
    """A node whose chain is in this process: translates py-evm's errors to those of a node."""

    _evm: PlainBackend

    def _hand_over(self, raw: bytes) -> None:
        self._evm.send_raw_transaction(raw)  # into the next block; eth-tester would mine it at once

    @contextmanager
    def _reach(self) -> Iterator[None]:
        try:
            with super()._reach():
                yield
        except (ValidationError, EvmValidationError) as error:
            raise RefusedError(f"{self._name} refuses a request: {error}") from None

    def call(self, to: str, data: bytes, sender: str, block: int | None = None) -> bytes:
        """See `ChainNode.call`."""
        try:
            return super().call(to, data, sender, block)
        except TransactionFailed as error:
            raise Reverted(_revert_data(str(error))) from None


class EthTesterNode(PyEvmNode, EmbeddedNode):
    """The EVM in this process: slower than anvil, but pip installs all of it."""

    backend = "eth_tester"

    def __init__(self, folder: Path, funded: Sequence[str]) -> None:
        """Start, or rebuild from `folder`, a chain that gives the `funded` addresses gas money."""
        genesis = new_genesis(self.backend, ETH_TESTER_CHAIN_ID, funded)
        journal = ChainJournal(folder, genesis)
        self._evm = new_backend(genesis)
        super().__init__(Web3(EthereumTesterProvider(EthereumTester(self._evm))), journal)

    def _begin_block(self, timestamp: int) -> None:
        self._evm.chain.set_header_timestamp(timestamp)

    def _end_block(self) -> None:
        self._evm.mine_blocks()

    def _drop_block(self) -> None:
        self._evm.revert_to_snapshot(self._evm.chain.get_canonical_block_by_number(self._number - 1).hash)


def _revert_data(message: str) -> bytes:
    """Revert data out of eth-tester's exception, which holds the text of a bytes object (or a decoded string)."""
    text = message.removeprefix("execution reverted: ")
    if text[:2] in ("b'", 'b"'):
        return bytes(ast.literal_eval(text))
    return (
        bytes.fromhex("08c379a0")
        + word(32)
        + word(len(text.encode()))
        + text.encode()
        + bytes(-len(text.encode()) % 32)
    )
