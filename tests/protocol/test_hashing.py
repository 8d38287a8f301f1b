from __future__ import annotations

import hashlib

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak as reference_keccak
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.hashing import keccak, sha256, tag, tagged, word

WORDS = st.lists(st.one_of(st.integers(0, 2**256 - 1), st.binary(min_size=32, max_size=32)), max_size=6)


def test_known_hashes() -> None:
    assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.binary(max_size=300))
def test_hashes_are_the_standard_ones(data: bytes) -> None:
    assert keccak(data) == reference_keccak(data)
    assert sha256(data) == hashlib.sha256(data).digest()


@given(st.sampled_from(["flock_ray/seed/1", "flock_ray/roles/1"]), WORDS)
def test_a_tagged_hash_is_what_solidity_computes(name: str, words: list[int | bytes]) -> None:
    types = ["bytes32", *("uint256" if isinstance(value, int) else "bytes32" for value in words)]
    assert tagged(name, *words) == reference_keccak(encode(types, [reference_keccak(text=name), *words]))


def test_the_tag_and_every_word_count() -> None:
    hashes = {tagged("a"), tagged("b"), tagged("a", 0), tagged("a", 1), tagged("a", 0, 1), tagged("a", 1, 0), tag("a")}
    assert len(hashes) == 7


@pytest.mark.parametrize("value", [b"", bytes(20), bytes(31), bytes(33), bytes(64)])
def test_a_word_has_32_bytes(value: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        word(value)


@pytest.mark.parametrize("value", [-1, 2**256])
def test_a_number_fits_into_a_word(value: int) -> None:
    with pytest.raises(OverflowError):
        word(value)
