"""A chain behind web3: sending, receipts, calls and balances, with errors that name the cause."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from time import monotonic, sleep
from typing import Any, Literal, cast

from eth_abi.exceptions import DecodingError
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3RPCError
from web3.types import FilterParams, RPCEndpoint, TxParams

from flock_ray.chain.failures import NO_ANSWER, RefusedError, kind_of, message_of, refused_send, revert_error
from flock_ray.chain.signed import SignedTransaction
from flock_ray.chain.values import TxReceipt
from flock_ray.errors import ChainError, ChainUnreachableError, WrongChainError
from flock_ray.protocol.hashing import keccak

MIN_TIP = 10**6  # wei a gas; nodes drop transactions with less

LOG_WINDOW = 5_000
"""Blocks that one request for logs may be about; public endpoints answer no longer ranges."""

_FIRST_POLL, _LAST_POLL = 0.05, 2.0  # seconds between two requests for a receipt
_ALREADY_KNOWN = ("already known", "already imported")  # in a node's refusal of a transaction


class Reverted(Exception):
    """A contract refused a call.

    Attributes:
        data: what it reverted with, for `abi.describe_revert`.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


class ChainNode(ABC):
    """A chain behind web3.

    Attributes:
        backend: `eth_tester`, `anvil` or `rpc`.
        chain_id: id that its signatures are bound to.
        remote: the chain is external: it may be unreachable for a while, lag, and reorganize.

    Thread-safe: requests are made one at a time.
    """

    backend: str
    chain_id: int
    remote = False

    def __init__(self, web3: Web3, name: str) -> None:
        """Use `web3`; error messages call the chain `name` (never a url: it may contain credentials)."""
        web3.provider.global_ccip_read_enabled = False  # contracts must not make us fetch urls
        self._web3 = web3
        self._name = name
        self._lock = RLock()

    @contextmanager
    def _reach(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except NO_ANSWER as error:
            raise ChainUnreachableError(f"no answer from {self._name} ({kind_of(error)})") from None
        except TransactionNotFound:
            raise
        except Web3RPCError as error:
            raise RefusedError(f"{self._name} refuses a request: {message_of(error)}") from None

    def _request(self, method: str, params: Sequence[Any]) -> Any:
        """Result of a JSON-RPC request that web3 has no name for; None where the node refuses it."""
        with self._reach():
            return self._web3.provider.make_request(RPCEndpoint(method), params).get("result")

    @abstractmethod
    def send(self, raw: bytes, epoch: int) -> bytes:
        """Send a signed transaction; harmless if the chain has it already.

        Args:
            raw: signed transaction.
            epoch: sets the clock of an embedded chain.

        Returns:
            The transaction's hash.

        Raises:
            FundsError: the account cannot pay for the gas.
            NonceUsedError: another transaction took its place.
            UnderpricedError: it pays too little.
            ChainError: the node refuses it.
        """

    @abstractmethod
    def fees(self) -> tuple[int, int]:
        """(max_fee_per_gas, max_priority_fee_per_gas) in wei for a transaction made now."""

    @abstractmethod
    def close(self) -> None:
        """Release what the node holds; twice is harmless."""

    def send_in_groups(self, raws: Sequence[bytes], epoch: int) -> Iterator[list[bytes]]:
        """Send signed transactions in their order; see `send`.

        Yields:
            The hashes of those that were sent together. What is sent after them is sent when the next ones are asked
            for. What `send` raises is raised once the hashes of all that were sent before were given.
        """
        for raw in raws:
            yield [self.send(raw, epoch)]

    def _send_raw(self, raw: bytes, parsed: SignedTransaction) -> bytes:
        tx_hash = keccak(raw)
        if parsed.chain_id != self.chain_id:  # py-evm would take it
            raise WrongChainError(
                f"a transaction is signed for chain id {parsed.chain_id}, this chain is {self.chain_id}"
            )
        try:
            with self._reach():
                self._hand_over(raw)
        except RefusedError as error:
            if any(part in str(error).lower() for part in _ALREADY_KNOWN) or self.has(tx_hash):
                return tx_hash
            raise refused_send(parsed.sender, error) from None
        return tx_hash

    def _hand_over(self, raw: bytes) -> None:
        self._web3.eth.send_raw_transaction(raw)

    def has(self, tx_hash: bytes) -> bool:
        """Whether the chain knows the transaction, mined or not."""
        return self.transaction(tx_hash) is not None

    def receipt(self, tx_hash: bytes) -> tuple[TxReceipt, bool] | None:
        """Receipt of a mined transaction and whether it succeeded; None if it is not mined."""
        try:
            with self._reach():
                fields = self._web3.eth.get_transaction_receipt(HexBytes(tx_hash))
        except TransactionNotFound:
            return None
        receipt = TxReceipt(
            tx_hash, fields["gasUsed"], fields["blockNumber"], bytes(fields["blockHash"]), fields.get("contractAddress")
        )
        return receipt, bool(fields["status"])

    def receipts(self, hashes: Sequence[bytes]) -> list[tuple[TxReceipt, bool] | None]:
        """The receipts of several transactions; see `receipt`."""
        return [self.receipt(tx_hash) for tx_hash in hashes]

    def revert_data(self, tx_hash: bytes) -> bytes:
        """Revert data of a mined transaction, from a repeated call on the block before its own."""
        with self._reach():
            tx = self._web3.eth.get_transaction(HexBytes(tx_hash))
        if tx.get("to") is None:
            return b""
        try:
            self.call(tx["to"], bytes(tx["input"]), tx["from"], tx["blockNumber"] - 1)
        except Reverted as reverted:
            return reverted.data
        return b""

    def call(self, to: str, data: bytes, sender: str, block: int | None = None) -> bytes:
        """Answer of a contract at the latest block, or at block number `block`.

        Args:
            to: the contract.
            data: of the call.
            sender: the caller; py-evm requires it to hold some gas money.
            block: number.

        Raises:
            Reverted: the contract refused.
        """
        parties = {"to": Web3.to_checksum_address(to), "from": Web3.to_checksum_address(sender)}
        fields = cast(TxParams, {**parties, "data": HexBytes(data)})
        try:
            with self._reach():
                return bytes(self._web3.eth.call(fields, "latest" if block is None else block))
        except ContractLogicError as error:
            raise Reverted(_bytes_of(error.data)) from None
        except DecodingError:  # of an off-chain lookup (CCIP), which we never follow
            raise Reverted(b"") from None

    def call_many(self, calls: Sequence[tuple[str, bytes]], sender: str) -> list[bytes]:
        """Answers to several calls, each a contract and its data; see `call`."""
        return [self.call(to, data, sender) for to, data in calls]

    def estimate_gas(self, to: str, data: bytes, sender: str) -> int:
        """Gas that a call of `sender` would use as a transaction now.

        Raises:
            Reverted: the contract refuses it.
        """
        target = {"to": to} if to else {}
        fields = cast(TxParams, {**target, "from": sender, "data": HexBytes(data)})
        try:
            with self._reach():
                return int(self._web3.eth.estimate_gas(fields))
        except ContractLogicError as error:
            raise Reverted(_bytes_of(error.data)) from None

    def wait(
        self,
        hashes: Sequence[bytes],
        timeout: float,
        meanwhile: Callable[[], None] = lambda: None,
        option: str = "",
    ) -> TxReceipt:
        """Wait until one of these transactions, which replace each other, is mined; returns its receipt.

        Args:
            hashes: of the transactions.
            timeout: seconds.
            meanwhile: called after each poll without a receipt; it may add to `hashes`.
            option: that sets the timeout, for the error's text.

        Raises:
            FundsError: it reverted for lack of tokens.
            ChainError: it reverted, or none was mined within `timeout` seconds.
        """
        deadline = monotonic() + timeout
        pause = _FIRST_POLL
        while True:
            for tx_hash in hashes:
                mined = self.receipt(tx_hash)
                if mined is not None:
                    receipt, succeeded = mined
                    if not succeeded:
                        raise revert_error(f"transaction 0x{tx_hash.hex()}", self.revert_data(tx_hash))
                    return receipt
            if monotonic() >= deadline:
                told = f"transaction 0x{hashes[-1].hex()} is not mined after {timeout:g} s"
                raise ChainError(f"{told} ({option})" if option else f"{told}; it may still be mined later")
            meanwhile()
            sleep(pause)
            pause = min(1.5 * pause, _LAST_POLL)

    def nonce(self, address: str) -> int:
        """Nonce of the account's next transaction, pending ones counted."""
        with self._reach():
            return int(self._web3.eth.get_transaction_count(address, "pending"))  # type: ignore[arg-type]

    def nonces(self, addresses: Sequence[str]) -> list[int]:
        """Of several accounts; see `nonce`."""
        return [self.nonce(address) for address in addresses]

    def mined_nonce(self, address: str) -> int:
        """How many transactions of the account are mined."""
        with self._reach():
            return int(self._web3.eth.get_transaction_count(address, "latest"))  # type: ignore[arg-type]

    def head(self) -> int:
        """Number of the latest block."""
        with self._reach():
            return int(self._web3.eth.block_number)

    def mine(self) -> bool:
        """Have a development chain mine a block; whether it did."""
        return False

    def settled_head(self, tag: Literal["safe", "finalized"]) -> int:
        """Number of the latest block with this tag; on an embedded chain, which never reorganizes, the latest block."""
        return self.head()

    def balance(self, address: str) -> int:
        """The account's native coin, wei."""
        with self._reach():
            return int(self._web3.eth.get_balance(address))  # type: ignore[arg-type]

    def balances(self, addresses: Sequence[str]) -> list[int]:
        """Of several accounts; see `balance`."""
        return [self.balance(address) for address in addresses]

    def has_code(self, address: str) -> bool:
        """Whether a contract is at the address."""
        return bool(self.code(address))

    def code(self, address: str) -> bytes:
        """The code at the address; empty where there is none."""
        with self._reach():
            return bytes(self._web3.eth.get_code(address))  # type: ignore[arg-type]

    def transaction(self, tx_hash: bytes) -> Mapping[str, Any] | None:
        """Fields of a transaction, mined or pending; None if the chain does not know it."""
        try:
            with self._reach():
                return dict(self._web3.eth.get_transaction(HexBytes(tx_hash)))
        except TransactionNotFound:
            return None

    def genesis(self) -> bytes:
        """Hash of block 0."""
        with self._reach():
            return bytes(self._web3.eth.get_block(0)["hash"])

    def timestamp(self) -> int:
        """Time of the latest block."""
        with self._reach():
            return int(self._web3.eth.get_block("latest")["timestamp"])

    def logs(self, address: str, topics: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """(transaction hash, data) of a contract's newest logs with these first topics, searched back from the head."""
        for last in range(self.head(), -1, -LOG_WINDOW):
            logs = self.logs_in(address, topics, max(0, last - LOG_WINDOW + 1), last)
            if logs:
                return [(bytes(log["transactionHash"]), bytes(log["data"])) for log in logs]
        return []

    def logs_in(
        self, address: str, topics: Sequence[bytes | Sequence[bytes] | None], first: int, last: int
    ) -> Sequence[Mapping[str, Any]]:
        """Fields of a contract's logs in the blocks `first` to `last`, oldest first.

        Args:
            address: of the contract.
            topics: each a value, several of which any will do, or None for any at all.
            first: number of the first block.
            last: number of the last block.
        """
        fields = {
            "address": Web3.to_checksum_address(address),
            "topics": [_hex_topic(topic) for topic in topics],  # eth-tester matches no bytes
            "fromBlock": first,
            "toBlock": last,
        }
        with self._reach():
            return cast(Sequence[Mapping[str, Any]], self._web3.eth.get_logs(cast(FilterParams, fields)))


def _hex_topic(topic: bytes | Sequence[bytes] | None) -> Any:
    if isinstance(topic, bytes):
        return "0x" + topic.hex()
    return None if topic is None else [_hex_topic(choice) for choice in topic]


def _bytes_of(data: object) -> bytes:
    return bytes.fromhex(data.removeprefix("0x")) if isinstance(data, str) else b""
