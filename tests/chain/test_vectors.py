"""The vectors that the contracts are tested with are what this package computes, and what OpenZeppelin's tree does."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flock_ray.chain.merkle import MerkleTree, reward_leaf
from tests.chain.vectors import DOMAIN, FILE, TASK, account, encoded, text, vectors
from tests.waiting import PATIENCE

CONTRACTS = FILE.parents[1]
TYPES = ["uint256", "address", "bytes32", "address", "uint256"]
NODE = shutil.which("node")
HAS_PACKAGE = Path(CONTRACTS, "node_modules", "@openzeppelin", "merkle-tree").is_dir()


def test_the_vectors_are_up_to_date() -> None:
    assert FILE.read_text() == encoded(), "write them anew: python -m tests.chain.vectors"


def openzeppelin(tables: list[tuple[list[tuple[str, int]], list[int]]]) -> list[dict[str, Any]]:
    """What the package makes of tables of (account, wei), and of the positions to prove at once."""
    start = [str(DOMAIN.chain_id), DOMAIN.distributor, text(TASK)]
    asked = [{"rows": [[*start, who, str(wei)] for who, wei in rows], "wanted": wanted} for rows, wanted in tables]
    command = [str(NODE), str(CONTRACTS / "tools" / "merkle.mjs")]
    text_in = json.dumps({"types": TYPES, "tables": asked})
    made: list[dict[str, Any]] = json.loads(
        subprocess.run(command, input=text_in, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    )
    return made


def ours(rows: list[tuple[str, int]], wanted: list[int]) -> dict[str, Any]:
    leaves = [reward_leaf(DOMAIN, TASK, who, wei) for who, wei in rows]
    tree = MerkleTree(leaves)
    ordered, proof, flags = tree.multiproof([leaves[index] for index in wanted])
    return {
        "leaves": [text(leaf) for leaf in leaves],
        "root": text(tree.root),
        "proofs": [[text(node) for node in tree.proof(leaf)] for leaf in leaves],
        "multiproof": {
            "leaves": [text(leaf) for leaf in ordered],
            "proof": [text(node) for node in proof],
            "flags": flags,
        },
    }


@pytest.mark.skipif(NODE is None, reason="no node on PATH")
@pytest.mark.skipif(not HAS_PACKAGE, reason="no @openzeppelin/merkle-tree (npm install in contracts/ brings it)")
def test_openzeppelins_package_makes_the_same_trees() -> None:
    """Leaves, roots, proofs and multiproofs: of the shared vectors, and of random tables."""
    shared = [
        list(zip(tree["accounts"], map(int, tree["cumulative"]), strict=True)) for tree in vectors()["trees"]
    ]  # fmt: skip
    tables = [(rows, list(range(0, len(rows), 2))) for rows in shared]
    rng = random.Random(1)
    for size in (1, 2, 4, 6, 7, 11, 16, 33):
        rows = [(account(number), rng.getrandbits(rng.choice((1, 64, 128)))) for number in range(size)]
        tables.append((rows, sorted(rng.sample(range(size), rng.randint(1, size)))))
    theirs = openzeppelin(tables)
    assert len(theirs) == len(tables)
    for (rows, wanted), tree in zip(tables, theirs, strict=True):
        assert ours(rows, wanted) == tree
    for tree, vector in zip(theirs, vectors()["trees"], strict=False):
        assert (tree["leaves"], tree["root"], tree["proofs"]) == (vector["leaves"], vector["root"], vector["proofs"])
