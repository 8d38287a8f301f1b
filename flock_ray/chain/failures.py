"""What can go wrong between this package and a chain: no answer, a refused request, a transaction that reverted."""

from __future__ import annotations

import json

import requests
from web3.exceptions import BadResponseFormat, RequestTimedOut, TooManyRequests, Web3RPCError

from flock_ray.chain.abi import describe_revert
from flock_ray.errors import ChainError, FundsError

FUNDS_ERRORS = ("InsufficientStake", "InsufficientNodeStake", "StakeUnavailable", "ERC20InsufficientBalance")
"""Custom errors of the contracts that mean: the account has too few tokens."""

NO_ANSWER = (
    requests.RequestException,
    BadResponseFormat,
    TooManyRequests,
    RequestTimedOut,
    json.JSONDecodeError,
    OSError,
)
"""What is raised where a request got no answer."""

# Parts of a node's refusal of a transaction, in lower case.
_TOO_POOR = ("insufficient funds", "enough balance", "cannot afford")
_TOO_CHEAP = ("underpriced", "less than block base fee", "fee too low", "fee cap too low")


class UnfitError(OSError):
    """The chain's answer cannot be used now; the text says why and contains no url."""


class NonceUsedError(ChainError):
    """Another transaction of the same account took the nonce."""


class UnderpricedError(ChainError):
    """The node wants a higher fee, for the transaction itself or for it to replace another one."""


class RefusedError(ChainError):
    """The node answered a request with an error."""


def refused_send(sender: str, error: RefusedError) -> ChainError:
    """The error that says why a node refuses a transaction.

    Args:
        sender: its account.
        error: the node's answer.
    """
    text = str(error).lower()
    if any(part in text for part in _TOO_POOR):
        return FundsError(f"{sender} cannot pay for the gas of its transaction: {error}")
    if any(part in text for part in _TOO_CHEAP):
        return UnderpricedError(f"a transaction of {sender} pays too little: {error}")
    if "nonce" in text:
        return NonceUsedError(f"a transaction of {sender} comes out of turn: {error}")
    return error


def revert_error(what: str, data: bytes) -> ChainError:
    """The error that says why a contract refused `what`: FundsError or ChainError.

    Args:
        what: name of the transaction or call.
        data: its revert data.
    """
    name, text = describe_revert(data)
    kind = FundsError if name in FUNDS_ERRORS else ChainError
    return kind(f"{what} reverted: {text}" if text else f"{what} reverted without a reason")


def kind_of(error: BaseException) -> str:
    """What went wrong, without the error's text: it contains the url, which may contain credentials."""
    if isinstance(error, UnfitError):
        return str(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP status {status}" if status else type(error).__name__


def message_of(error: Web3RPCError) -> str:
    """The node's own words."""
    answer = (error.rpc_response or {}).get("error")
    return str(answer.get("message", answer)) if isinstance(answer, dict) else error.message
