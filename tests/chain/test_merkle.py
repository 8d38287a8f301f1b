from __future__ import annotations

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.chain.abi import contract
from flock_ray.chain.eip712 import Domain
from flock_ray.chain.keys import Signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.node import Reverted
from flock_ray.protocol.hashing import keccak
from tests.chain.world import World

words = st.binary(min_size=32, max_size=32)
leaf_sets = st.sets(words, min_size=1, max_size=70).map(list)


def verify(root: bytes, leaf: bytes, proof: list[bytes]) -> bool:
    """Whether a proof leads from a leaf to a root, as OpenZeppelin's `processProof` does."""
    for sibling in proof:
        leaf = keccak(min(leaf, sibling) + max(leaf, sibling))
    return leaf == root


@given(leaf_sets)
def test_every_leaf_has_a_proof(leaves: list[bytes]) -> None:
    tree = MerkleTree(leaves)
    for leaf in leaves:
        proof = tree.proof(leaf)
        assert verify(tree.root, leaf, proof)
        assert len(proof) <= (len(leaves) - 1).bit_length()


@given(leaf_sets, words, st.data())
def test_nothing_else_has_one(leaves: list[bytes], foreign: bytes, data: st.DataObject) -> None:
    tree = MerkleTree(leaves)
    leaf = data.draw(st.sampled_from(leaves))
    proof = tree.proof(leaf)
    if foreign not in leaves:
        assert not verify(tree.root, foreign, proof)
        with pytest.raises(KeyError):
            tree.proof(foreign)
    if proof:
        i = data.draw(st.integers(0, len(proof) - 1))
        assert not verify(tree.root, leaf, [*proof[:i], keccak(proof[i]), *proof[i + 1 :]])
        assert not verify(tree.root, leaf, proof[1:])


def process(leaves: list[bytes], proof: list[bytes], flags: list[bool]) -> bytes:
    """Root by OpenZeppelin's `processMultiProof`, word for word."""
    assert len(leaves) + len(proof) == len(flags) + 1
    known, rest = iter(nodes := list(leaves)), iter(proof)
    for flag in flags:
        a, b = next(known), next(known) if flag else next(rest)
        nodes.append(keccak(min(a, b) + max(a, b)))
    assert next(rest, None) is None
    return nodes[-1]


@given(leaf_sets, st.data())
def test_several_leaves_have_one_proof(leaves: list[bytes], data: st.DataObject) -> None:
    tree = MerkleTree(leaves)
    wanted = data.draw(st.lists(st.sampled_from(leaves), min_size=1, unique=True))
    ordered, proof, flags = tree.multiproof(wanted)
    assert set(ordered) == set(wanted)
    assert process(ordered, proof, flags) == tree.root
    assert len(proof) <= sum(len(tree.proof(leaf)) for leaf in wanted)


@given(leaf_sets, st.randoms())
def test_the_order_of_leaves_does_not_matter(leaves: list[bytes], random: object) -> None:
    shuffled = list(leaves)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert MerkleTree(shuffled).root == MerkleTree(leaves).root


def test_the_smallest_trees() -> None:
    a, b = sorted((keccak(b"a"), keccak(b"b")))
    assert MerkleTree([]).root == bytes(32)
    assert MerkleTree([a]).root == a
    assert MerkleTree([b, a]).root == keccak(a + b)


def test_the_example_of_openzeppelin() -> None:
    """From the README of https://github.com/OpenZeppelin/merkle-tree."""
    values = [("0x" + "11" * 20, 5 * 10**18), ("0x" + "22" * 20, 25 * 10**17)]
    leaves = [keccak(keccak(encode(["address", "uint256"], value))) for value in values]
    tree = MerkleTree(leaves)
    assert tree.root.hex() == "d4dee0beab2d53f2cc83e567171bd2820e49898130a22622b10ead383e90bd77"
    assert [p.hex() for p in tree.proof(leaves[0])] == [
        "b92c48e9d7abe27fd8dfd6b5dfdbfb1c9a463f80c712b66f3a5180a090cccafc"
    ]


@given(st.integers(0, 2**256 - 1), words, st.integers(0, 2**256 - 1))
def test_a_leaf_is_the_contracts_encoding_hashed_twice(chain_id: int, task: bytes, cumulative: int) -> None:
    settlement, distributor, account = (
        Signer.derive(keccak(name)).address for name in (b"settlement", b"distributor", b"account")
    )
    encoded = encode(
        ["uint256", "address", "bytes32", "address", "uint256"], [chain_id, distributor, task, account, cumulative]
    )
    assert reward_leaf(Domain(chain_id, settlement, distributor), task, account, cumulative) == keccak(keccak(encoded))


@pytest.mark.parametrize("num_accounts", [1, 2, 3, 4, 5, 7, 8, 9, 13])
def test_the_contract_takes_every_proof(shared_world: World, num_accounts: int) -> None:
    """One epoch settles a tree of each size; every account's claim passes, and none with another amount."""
    world = shared_world
    accounts = [Signer.derive(keccak(b"account %d" % i)).address for i in range(num_accounts)]
    earned = {account: 1 + i * i for i, account in enumerate(accounts)}
    report, tree = world.report(earned)
    world.settle(report)
    for account, amount in earned.items():
        proof = tree.proof(reward_leaf(world.domain, report.task, account, amount))
        claim = contract("RewardDistributor").encode("claim", report.task, account, amount, proof)
        world.client._node.call(world.domain.distributor, claim, world.creator.address)
        too_much = contract("RewardDistributor").encode("claim", report.task, account, amount + 1, proof)
        with pytest.raises(Reverted):
            world.client._node.call(world.domain.distributor, too_much, world.creator.address)
