"""A chain behind web3: sending, receipts, calls and balances, with errors that name the cause."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from time import monotonic, sleep
from typing import Any, Literal, cast

import requests
from eth_abi.exceptions import DecodingError
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_keys.exceptions import BadSignature
from eth_keys.exceptions import ValidationError as KeyValidationError
from eth_typing import HexStr
from hexbytes import HexBytes
from rlp.exceptions import RLPException  # type: ignore[import-untyped]
from web3 import Web3
from web3.exceptions import (
    BadResponseFormat,
    ContractLogicError,
    RequestTimedOut,
    TooManyRequests,
    TransactionNotFound,
    Web3RPCError,
)
from web3.types import FilterParams, RPCEndpoint, TxParams

from flock_ray.chain.abi import describe_revert
from flock_ray.chain.values import TxReceipt
from flock_ray.errors import ChainError, ChainUnreachableError, FundsError, WrongChainError
from flock_ray.protocol.hashing import keccak

MIN_TIP = 10**6  # wei a gas; nodes drop transactions with less

_LOG_WINDOW = 5_000  # blocks; public endpoints answer no longer ranges
_FIRST_POLL, _LAST_POLL = 0.05, 2.0  # seconds between two requests for a receipt
FUNDS_ERRORS = ("InsufficientStake", "StakeUnavailable", "ERC20InsufficientBalance")
_POOR = ("insufficient funds", "enough balance", "cannot afford")
_KNOWN = ("already known", "already imported")
_CHEAP = ("underpriced", "less than block base fee", "fee too low", "fee cap too low")
NO_ANSWER = (
    requests.RequestException,
    BadResponseFormat,
    TooManyRequests,
    RequestTimedOut,
    json.JSONDecodeError,
    OSError,
)


class Reverted(Exception):
    """A contract refused a call.

    Attributes:
        data: what it reverted with, for `abi.describe_revert`.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


class UnfitError(OSError):
    """The chain's answer cannot be used now; the text says why and contains no url."""


class NonceUsedError(ChainError):
    """Another transaction of the same account took the nonce."""


class UnderpricedError(ChainError):
    """The node wants a higher fee, for the transaction itself or for it to replace another one."""


class RefusedError(ChainError):
    """The node answered a request with an error."""


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
            raise RefusedError(f"{self._name} refuses a request: {_message(error)}") from None

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

    def _send_raw(self, raw: bytes) -> bytes:
        tx_hash = keccak(raw)
        chain_id, sender, _ = parse(raw)
        if chain_id != self.chain_id:  # py-evm would take it
            raise WrongChainError(f"a transaction is signed for chain id {chain_id}, this chain is {self.chain_id}")
        try:
            with self._reach():
                self._web3.eth.send_raw_transaction(raw)
        except RefusedError as error:
            text = str(error).lower()
            if any(known in text for known in _KNOWN) or self.has(tx_hash):
                return tx_hash
            if any(poor in text for poor in _POOR):
                raise FundsError(f"{sender} cannot pay for the gas of its transaction: {error}") from None
            if any(cheap in text for cheap in _CHEAP):
                raise UnderpricedError(f"a transaction of {sender} pays too little: {error}") from None
            if "nonce" in text:
                raise NonceUsedError(f"a transaction of {sender} comes out of turn: {error}") from None
            raise
        return tx_hash

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

    def estimate_gas(self, to: str, data: bytes, sender: str) -> int:
        """Gas that a call of `sender` would use as a transaction now.

        Raises:
            Reverted: the contract refuses it.
        """
        fields = cast(TxParams, {"to": to, "from": sender, "data": HexBytes(data)})
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
        with self._reach():
            newest = int(self._web3.eth.block_number)
            for last in range(newest, -1, -_LOG_WINDOW):
                logs = self._web3.eth.get_logs(
                    {
                        "address": Web3.to_checksum_address(address),
                        "topics": [HexStr("0x" + topic.hex()) for topic in topics],  # eth-tester matches no bytes
                        "fromBlock": max(0, last - _LOG_WINDOW + 1),
                        "toBlock": last,
                    }
                )
                if logs:
                    return [(bytes(log["transactionHash"]), bytes(log["data"])) for log in logs]
        return []

    def history(
        self, address: str, topics: Sequence[bytes | Sequence[bytes] | None], first: int
    ) -> list[tuple[list[bytes], bytes]]:
        """(topics, data) of all logs of a contract from a block on that have these first topics, oldest first.

        Nodes bound a request in different ways: all blocks are asked for at once, and in windows where that is refused.

        Args:
            address: of the contract.
            topics: each a value, several of which any will do, or None for any at all.
            first: number of the first block.
        """
        wanted = [_hex_topic(topic) for topic in topics]

        def ask(start: int, end: int) -> list[tuple[list[bytes], bytes]]:
            fields = {
                "address": Web3.to_checksum_address(address),
                "topics": wanted,
                "fromBlock": start,
                "toBlock": end,
            }
            with self._reach():
                logs = self._web3.eth.get_logs(cast(FilterParams, fields))
            return [([bytes(topic) for topic in log["topics"]], bytes(log["data"])) for log in logs]

        head = self.head()
        try:
            return ask(first, head)
        except RefusedError:
            starts = range(first, head + 1, _LOG_WINDOW)
            return [log for start in starts for log in ask(start, min(start + _LOG_WINDOW - 1, head))]


def _hex_topic(topic: bytes | Sequence[bytes] | None) -> Any:
    if isinstance(topic, bytes):
        return HexStr("0x" + topic.hex())
    return None if topic is None else [_hex_topic(choice) for choice in topic]


def revert_error(what: str, data: bytes) -> ChainError:
    """The error that says why a contract refused `what`: FundsError or ChainError.

    Args:
        what: name of the transaction or call.
        data: its revert data.
    """
    name, text = describe_revert(data)
    kind = FundsError if name in FUNDS_ERRORS else ChainError
    return kind(f"{what} reverted: {text}" if text else f"{what} reverted without a reason")


def parse(raw: bytes) -> tuple[int, str, int]:
    """(chain id, sender, nonce) of a signed EIP-1559 transaction.

    Raises:
        ChainError: `raw` is not such a transaction.
    """
    try:
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        return int(fields["chainId"]), str(Account.recover_transaction(HexBytes(raw))), int(fields["nonce"])
    except (ValueError, TypeError, IndexError, KeyError, RLPException, BadSignature, KeyValidationError) as error:
        raise ChainError(f"not a signed EIP-1559 transaction ({type(error).__name__})") from None


def kind_of(error: BaseException) -> str:
    """What went wrong, without the error's text: it contains the url, which may contain credentials."""
    if isinstance(error, UnfitError):
        return str(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP status {status}" if status else type(error).__name__


def _message(error: Web3RPCError) -> str:
    answer = (error.rpc_response or {}).get("error")
    return str(answer.get("message", answer)) if isinstance(answer, dict) else error.message


def _bytes_of(data: object) -> bytes:
    return bytes.fromhex(data.removeprefix("0x")) if isinstance(data, str) else b""
