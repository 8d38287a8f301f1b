"""The tree of cumulative rewards, in the layout of OpenZeppelin's StandardMerkleTree.

Leaves are hashed twice, so no inner node passes for one; leaves are sorted and so is every pair, so a proof needs no
directions. Source: https://github.com/OpenZeppelin/merkle-tree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from flock_ray.chain.eip712 import Domain
from flock_ray.protocol.hashing import ZERO, keccak, word


def reward_leaf(domain: Domain, task: bytes, account: str, cumulative: int) -> bytes:
    """Leaf of an account's rewards.

    Args:
        domain: chain id and distributor, part of the leaf.
        task: id of the task.
        account: address.
        cumulative: wei earned since the task's start.
    """
    words: tuple[bytes | int, ...] = (domain.chain_id, int(domain.distributor, 16), task, int(account, 16), cumulative)
    return keccak(keccak(b"".join(map(word, words))))


def _pair(a: bytes, b: bytes) -> bytes:
    return keccak(a + b if a < b else b + a)


class MerkleTree:
    """A complete binary tree over leaf hashes.

    Attributes:
        root: 32 bytes; zero for no leaves, the leaf itself for one.
    """

    def __init__(self, leaves: Iterable[bytes]) -> None:
        ordered = sorted(leaves)
        nodes = [ZERO] * max(len(ordered) - 1, 0) + ordered[::-1]
        for i in range(len(ordered) - 2, -1, -1):
            nodes[i] = _pair(nodes[2 * i + 1], nodes[2 * i + 2])
        self._nodes = nodes
        self._index = {leaf: len(nodes) - 1 - i for i, leaf in enumerate(ordered)}
        self.root = nodes[0] if nodes else ZERO

    def proof(self, leaf: bytes) -> list[bytes]:
        """Sibling hashes from `leaf` up to the root.

        Raises:
            KeyError: no such leaf.
        """
        i = self._index[leaf]
        proof = []
        while i > 0:
            proof.append(self._nodes[i + 1 if i % 2 else i - 1])
            i = (i - 1) // 2
        return proof

    def multiproof(self, leaves: Iterable[bytes]) -> tuple[list[bytes], list[bytes], list[bool]]:
        """One proof for several leaves, as OpenZeppelin's `MerkleProof.multiProofVerify` takes it.

        Returns:
            (leaves, proof, flags): the leaves in the order that the proof needs, the hashes that are not computed on
            the way, and for each step whether its second node is computed (true) or the next of `proof`.

        Raises:
            KeyError: no such leaf.
        """
        queue = deque(sorted({self._index[leaf] for leaf in leaves}, reverse=True))
        ordered = [self._nodes[i] for i in queue]
        proof, flags = [], []
        while queue and queue[0] > 0:
            i = queue.popleft()
            sibling = i + 1 if i % 2 else i - 1
            computed = bool(queue) and queue[0] == sibling
            if computed:
                queue.popleft()
            else:
                proof.append(self._nodes[sibling])
            flags.append(computed)
            queue.append((i - 1) // 2)
        return ordered, proof, flags
