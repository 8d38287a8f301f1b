from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.protocol.hashing import keccak, tagged
from flock_ray.protocol.seed import (
    HashChain,
    chain_link,
    fixed_genesis,
    local_seed,
    next_seed,
    reveal_matches,
    reveals_digest,
    skip_seed,
)

HASHES = st.binary(min_size=32, max_size=32)


def test_seeds_are_the_hashes_that_the_contract_makes() -> None:
    seed, digest = keccak(b"seed"), keccak(b"digest")
    assert fixed_genesis(7) == tagged("flock_ray/genesis/1", 7)
    assert next_seed(seed, digest) == tagged("flock_ray/seed/1", seed, digest)
    assert skip_seed(seed) == tagged("flock_ray/skip/1", seed)
    assert len({seed, next_seed(seed, digest), skip_seed(seed), next_seed(digest, seed)}) == 4


@given(HASHES, st.integers(1, 30), st.data())
def test_each_reveal_hashes_up_to_the_tip_in_its_epoch_only(root: bytes, length: int, draw: st.DataObject) -> None:
    chain = HashChain(root, length)
    epoch = draw.draw(st.integers(1, length))
    other = draw.draw(st.integers(1, length).filter(lambda number: number != epoch)) if length > 1 else 0
    assert reveal_matches(chain.tip, epoch, chain.preimage(epoch))
    assert not reveal_matches(chain.tip, other, chain.preimage(epoch))
    assert chain_link(chain.preimage(epoch)) == chain.preimage(epoch - 1)


def test_a_chain_ends_at_its_root_and_reveals_no_more() -> None:
    chain = HashChain(keccak(b"root"), 5)
    assert chain.preimage(5) == chain.root
    assert chain.preimage(0) == chain.tip != chain.root
    for epoch in (-1, 6):
        with pytest.raises(ValueError, match="epochs 1 to 5"):
            chain.preimage(epoch)


@given(HASHES, HASHES)
def test_a_foreign_preimage_does_not_match(root: bytes, other: bytes) -> None:
    chain = HashChain(root, 3)
    assert reveal_matches(chain.tip, 2, other) == (other == chain.preimage(2))


@given(st.dictionaries(st.integers(0, 100), HASHES, min_size=2, max_size=6))
def test_the_reveals_digest_depends_on_the_set_alone(reveals: dict[int, bytes]) -> None:
    digest = reveals_digest(reveals)
    assert reveals_digest(dict(reversed(reveals.items()))) == digest
    member = min(reveals)
    assert reveals_digest({**reveals, member: keccak(reveals[member])}) != digest
    assert reveals_digest({k: v for k, v in reveals.items() if k != member}) != digest
    assert reveals_digest({(k + 101 if k == member else k): v for k, v in reveals.items()}) != digest


def test_no_reveals_still_have_a_digest() -> None:
    assert reveals_digest({}) == tagged("flock_ray/reveals/1")
    assert reveals_digest({2: keccak(b"a"), 1: keccak(b"b")}) == tagged(
        "flock_ray/reveals/1", 1, keccak(b"b"), 2, keccak(b"a")
    )


def test_local_seeds_are_apart_and_fit_a_generator() -> None:
    seeds = [local_seed(*key) for key in [(1, "batches", 1, 2), (1, "batches", 2, 1), (1, "init"), (2, "init")]]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert local_seed(1, "init") == seeds[2]
