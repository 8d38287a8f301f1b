"""Values of the command line, as a person types them."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from pathlib import Path

_TOKEN_DECIMALS = 18
_MAX_WEI = 1 << 96  # what the vault counts with
_MAX_PRICE = 1 << 64  # what a price book takes
_YEAR = 365 * 86_400  # seconds
_NUMBER = re.compile(r"\d+(\.\d+)?")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_HASH = re.compile(r"(0x)?[0-9a-fA-F]{64}")


def amount(text: str) -> int:
    """Whole tokens, with decimals, in wei."""
    wei = _scaled(text, _TOKEN_DECIMALS, "amount of tokens")
    if not 0 < wei < _MAX_WEI:
        raise ArgumentTypeError(f"{text!r} is no amount of tokens that an account can have")
    return wei


def seconds(text: str) -> int:
    """A number of whole seconds, at most a year."""
    if not text.isdecimal() or int(text) > _YEAR:
        raise ArgumentTypeError(f"{text!r} is no number of seconds from 0 to {_YEAR}")
    return int(text)


def price(text: str) -> int:
    """Whole tokens of the chain for a million tokens of text, in wei for one of them."""
    wei = _scaled(text, _TOKEN_DECIMALS - 6, "price in tokens for a million tokens of text")
    if wei >= _MAX_PRICE:
        raise ArgumentTypeError(f"{text!r} is more than a token of text can cost")
    return wei


def split(text: str) -> tuple[int, int, int, int]:
    """Four percentages with commas between them that sum to 100, in basis points."""
    parts = [basis_points(part) for part in text.split(",")]
    if len(parts) != 4 or sum(parts) != 10_000:
        raise ArgumentTypeError(f"{text!r} is not four percentages that sum to 100, such as 20,8,22,50")
    return parts[0], parts[1], parts[2], parts[3]


def basis_points(text: str) -> int:
    """Percent, with at most two decimals, in basis points."""
    points = _scaled(text, 2, "percentage")
    if points > 10_000:
        raise ArgumentTypeError(f"{text!r} is more than 100 percent")
    return points


def _scaled(text: str, decimals: int, what: str) -> int:
    """The number times 10^decimals, exactly."""
    if not _NUMBER.fullmatch(text):
        raise ArgumentTypeError(f"{text!r} is no {what}, such as 12 or 12.5")
    whole, _, rest = text.partition(".")
    rest = rest.rstrip("0")
    if len(rest) > decimals:
        raise ArgumentTypeError(f"{text!r} has more than {decimals} decimals")
    return int(whole + rest.ljust(decimals, "0"))


def address(text: str) -> str:
    """An address, checksummed; one of mixed case must have the right checksum."""
    from flock_ray.chain.deployment import checksummed  # slow, and most commands take no address

    try:
        return checksummed(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no address of 20 bytes, or its checksum is wrong") from None


def book_or_address(text: str) -> str | Path:
    """An address, or the file of an address book."""
    return address(text) if _ADDRESS.fullmatch(text) else Path(text)


def digest(text: str) -> str:
    """A hash of 32 bytes: 64 lower-case hex digits."""
    if not _HASH.fullmatch(text):
        raise ArgumentTypeError("a hash has 64 hex digits")
    return text.lower().removeprefix("0x")


def task(text: str) -> bytes | Path:
    """The id of a task, or the folder of a run."""
    if _HASH.fullmatch(text):
        return bytes.fromhex(text.removeprefix("0x"))
    if not Path(text).is_dir():
        raise ArgumentTypeError(f"{text!r} is neither the id of a task (64 hex digits) nor a folder")
    return Path(text)


def count(text: str) -> int:
    """A whole number, 0 or more."""
    return _whole(text, 0)


def positive(text: str) -> int:
    """A whole number above 0."""
    return _whole(text, 1)


def numbers(text: str) -> list[int]:
    """Whole numbers above 0, with commas between them."""
    return [_whole(part, 1) for part in text.split(",")]


def _whole(text: str, low: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < low:
        raise ArgumentTypeError(f"{text!r} is no whole number{' above 0' if low else ''}")
    return int(text)
