"""What a signed transaction says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_keys.exceptions import BadSignature
from eth_keys.exceptions import ValidationError as KeyValidationError
from hexbytes import HexBytes
from rlp.exceptions import RLPException  # type: ignore[import-untyped]

from flock_ray.chain.abi import function_name
from flock_ray.errors import ChainError

_MALFORMED = (ValueError, TypeError, IndexError, KeyError, RLPException, BadSignature, KeyValidationError)


@dataclass(frozen=True)
class SignedTransaction:
    """A signed EIP-1559 transaction.

    Attributes:
        chain_id: id of the chain that it is for.
        sender: its account.
        nonce: of the account.
        gas: limit.
    """

    chain_id: int
    sender: str
    nonce: int
    gas: int


def parse(raw: bytes) -> SignedTransaction:
    """Read a signed transaction.

    Raises:
        ChainError: `raw` is not a signed EIP-1559 transaction.
    """
    try:
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        sender = str(Account.recover_transaction(HexBytes(raw)))
        return SignedTransaction(int(fields["chainId"]), sender, int(fields["nonce"]), int(fields["gas"]))
    except _MALFORMED as error:
        raise ChainError(f"not a signed EIP-1559 transaction ({type(error).__name__})") from None


def called(raw: bytes) -> str:
    """Name of the function that a signed transaction calls; `transaction` if it is none of our contracts'."""
    return function_name(bytes(HexBytes(TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["data"]))) or "transaction"
