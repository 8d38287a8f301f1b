"""Signing keys: secp256k1 signatures of digests and transactions, and where a key comes from.

A key never leaves its process: it has no text form, cannot be pickled, and no error message holds any of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NoReturn

from coincurve import PrivateKey, PublicKey

from flock_ray.errors import KeyMissingError
from flock_ray.protocol.hashing import keccak, tag, tagged

PASSWORD_VARIABLE = "FLOCK_RAY_KEYSTORE_PASSWORD"

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_NAME = re.compile(r"creator|relayer|gateway|receipts|user|(member|node|delegator)-\d+")


class Signer:
    """An account that can sign.

    Attributes:
        address: checksummed address.
    """

    __slots__ = ("_key", "address")

    def __init__(self, secret: bytes) -> None:
        """Take the private key `secret`, a big-endian scalar of 32 bytes.

        Raises:
            ValueError: not a private key of the curve.
        """
        if len(secret) != 32 or not 0 < int.from_bytes(secret, "big") < _ORDER:
            raise ValueError("a private key is 32 bytes between 1 and the order of secp256k1")
        self._key = PrivateKey(secret)
        self.address = _address(self._key.public_key)

    @classmethod
    def derive(cls, secret: bytes) -> Signer:
        """The account of a 32-byte secret that is not a key itself: its key is H("flock_ray/key/1", secret)."""
        return cls(tagged("flock_ray/key/1", secret))

    def secret(self, purpose: str) -> bytes:
        """A 32-byte secret of this account for a purpose (root of a hash chain, salts); reveals nothing of the key."""
        return tagged("flock_ray/secret/1", tag(purpose), self._key.secret)

    def sign_digest(self, digest: bytes) -> bytes:
        """Signature of a 32-byte digest: r || s || v, v in {27, 28}, low s, nonce by RFC 6979 (65 bytes)."""
        if len(digest) != 32:
            raise ValueError(f"a digest has 32 bytes, not {len(digest)}")
        signature: bytes = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([27 + signature[64]])

    def sign_transaction(self, fields: Mapping[str, Any]) -> bytes:
        """Raw bytes of the signed transaction with these JSON-RPC `fields` (nonce, gas and fees included)."""
        from eth_account import Account  # here: slow to import, and most commands sign nothing

        return bytes(Account.sign_transaction(dict(fields), self._key.secret).raw_transaction)

    def __repr__(self) -> str:
        return f"Signer({self.address})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signer cannot be pickled or copied: keys stay in the process that loaded them")


def _address(key: PublicKey) -> str:
    return checksummed(keccak(key.format(compressed=False)[1:])[12:].hex())


@lru_cache(maxsize=1 << 16)
def checksummed(text: str) -> str:
    """The address of 40 lower-case hex digits, by ERC-55: upper case where their hash has a digit of 8 or more."""
    digits = keccak(text.encode()).hex()
    return "0x" + "".join(map(_cased, text, digits))


def _cased(letter: str, digit: str) -> str:
    return letter.upper() if digit >= "8" else letter


@lru_cache(maxsize=1 << 16)
def recover(digest: bytes, signature: bytes) -> str | None:
    """Address that signed `digest`; None for a malformed or high-s signature. Recent answers are cached.

    Args:
        digest: 32 bytes.
        signature: r || s || v, 65 bytes, v in {27, 28}: the one accepted form, so a signature cannot be rewritten.
    """
    if len(digest) != 32 or len(signature) != 65 or signature[64] not in (27, 28):
        return None
    if int.from_bytes(signature[32:64], "big") > _ORDER // 2:
        return None
    try:
        return _address(
            PublicKey.from_signature_and_message(signature[:64] + bytes([signature[64] - 27]), digest, None)
        )
    except ValueError:  # no point of the curve has signed it
        return None


def compact(signature: bytes) -> bytes:
    """EIP-2098 form of a 65-byte signature: r || vs, 64 bytes, the parity of v in the top bit of s."""
    if len(signature) != 65 or signature[64] not in (27, 28) or signature[32] & 0x80:
        raise ValueError("expected r || s || v with low s and v of 27 or 28")
    top = signature[32] | (signature[64] - 27) << 7
    return signature[:32] + bytes([top]) + signature[33:64]


@cache
def run_signer(run_seed: int, name: str) -> Signer:
    """The key of `name` on an embedded chain, a function of the run's seed alone. It protects nothing of value."""
    return Signer(tagged("flock_ray/key/1", run_seed, tag(name)))


def load_signer(name: str, keystore: str = "") -> Signer:
    """The key of `name` on a real chain: from the keystore folder if one is given, else from the environment.

    Args:
        name: `creator`, `relayer`, `gateway`, `receipts`, `user`, `member-<i>` or `delegator-<i>`.
        keystore: folder with `<name>.json` (version 3 keystore), opened with $FLOCK_RAY_KEYSTORE_PASSWORD. When
            empty: hex key in $FLOCK_RAY_CREATOR_KEY, $FLOCK_RAY_RELAYER_KEY, $FLOCK_RAY_MEMBER_<i>_KEY …

    Raises:
        KeyMissingError: the key is not there or does not open.
    """
    if not _NAME.fullmatch(name):
        raise KeyMissingError(
            f"there is no key named {name!r}: keys are creator, relayer, gateway, receipts, user, member-<number> and"
            " delegator-<number>"
        )
    return _from_keystore(name, Path(keystore)) if keystore else _from_environment(name)


def _from_environment(name: str) -> Signer:
    variable = f"FLOCK_RAY_{name.upper().replace('-', '_')}_KEY"
    text = os.environ.get(variable, "").strip()
    if not text:
        raise KeyMissingError(f"no key for {name}: set {variable}, or chain.keystore to a folder with {name}.json")
    try:
        return Signer(bytes.fromhex(text.removeprefix("0x")))
    except ValueError:
        raise KeyMissingError(f"{variable} is no private key: expected 64 hex digits") from None


def _from_keystore(name: str, folder: Path) -> Signer:
    from eth_account import Account

    path = folder / f"{name}.json"
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None:
        raise KeyMissingError(f"{path} cannot be opened: set {PASSWORD_VARIABLE}")
    try:
        return Signer(bytes(Account.decrypt(json.loads(path.read_text()), password)))
    except OSError as error:
        raise KeyMissingError(f"no key for {name}: {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        raise KeyMissingError(f"{path} does not open: not a version 3 keystore, or another password") from None
