"""Hashes of the protocol: SHA-256 for blobs and records, keccak-256 for whatever a contract recomputes.

Every keccak hash carries a domain tag, so that a hash made for one purpose never passes for another.
"""

from __future__ import annotations

import hashlib
from functools import cache

from sha3 import keccak_256

ZERO = bytes(32)


def sha256(data: bytes) -> bytes:
    """SHA-256 of `data` (32 bytes)."""
    return hashlib.sha256(data).digest()


def keccak(data: bytes) -> bytes:
    """Keccak-256 of `data` as Ethereum uses it (32 bytes)."""
    return bytes(keccak_256(data).digest())


@cache
def tag(name: str) -> bytes:
    """Domain tag of `name`: its keccak-256."""
    return keccak(name.encode())


def word(value: bytes | int) -> bytes:
    """One ABI word: an integer as big-endian uint256, or exactly 32 bytes as they are.

    Raises:
        ValueError: bytes of another length.
    """
    if isinstance(value, int):
        return value.to_bytes(32, "big")
    if len(value) != 32:
        raise ValueError(f"a hash word has 32 bytes, not {len(value)}")
    return value


def tagged(name: str, *words: bytes | int) -> bytes:
    """Tagged hash: in Solidity `keccak256(abi.encode(keccak256(bytes(name)), words...))`.

    Args:
        name: domain tag, such as `flock_ray/seed/1`.
        words: integers in [0, 2^256) or 32-byte values.

    Returns:
        32 bytes.
    """
    return keccak(tag(name) + b"".join(map(word, words)))
