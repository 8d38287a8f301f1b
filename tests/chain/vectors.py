"""Test vectors that Python and Solidity share: `python -m tests.chain.vectors` writes contracts/test/vectors.json.

Whole numbers are decimal text, so that no reader rounds them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flock_ray.chain.eip712 import Domain, message_digest, report_digest, report_hash
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.keys import Signer, compact
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.protocol.contest_message import ContestKind
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.message import Kind
from flock_ray.protocol.roles import draw_seats
from flock_ray.protocol.seed import next_seed, reveals_digest, skip_seed

FILE = Path(__file__).parents[2] / "contracts" / "test" / "vectors.json"
TASK = keccak(b"task")
SIGNER = Signer.derive(keccak(b"signer"))
TOKEN = 10**18


def account(number: int) -> str:
    return Signer.derive(keccak(b"account %d" % number)).address


DOMAIN = Domain(8_453, account(1_000), account(1_001))
TREE_SIZES = (1, 2, 3, 5, 8, 13)
DRAWS = ((1, 1), (4, 4), (8, 8), (40, 20), (10_000, 12), (2**32 - 1, 30))  # slots and seats


def text(value: bytes) -> str:
    return "0x" + value.hex()


def tree(size: int) -> dict[str, Any]:
    """A table of rewards, every leaf's proof, and one proof for every other leaf."""
    amounts = {account(number): (number + 1) ** 5 * TOKEN // 7 for number in range(size)}
    leaves = {who: reward_leaf(DOMAIN, TASK, who, wei) for who, wei in amounts.items()}
    made = MerkleTree(leaves.values())
    owner = {leaf: who for who, leaf in leaves.items()}
    ordered, proof, flags = made.multiproof(list(leaves.values())[::2])
    return {
        "accounts": list(amounts),
        "cumulative": [str(wei) for wei in amounts.values()],
        "leaves": [text(leaf) for leaf in leaves.values()],
        "root": text(made.root),
        "proofs": [[text(node) for node in made.proof(leaf)] for leaf in leaves.values()],
        "multiproof": {
            "accounts": [owner[leaf] for leaf in ordered],
            "cumulative": [str(amounts[owner[leaf]]) for leaf in ordered],
            "proof": [text(node) for node in proof],
            "flags": flags,
        },
    }


def draw(number: int, num_slots: int, num_seats: int) -> dict[str, Any]:
    seed = keccak(b"seed %d" % number)
    slots = draw_seats(seed, TASK, number + 1, num_slots, num_seats)
    return {
        "seed": text(seed),
        "epoch": str(number + 1),
        "numSlots": str(num_slots),
        "slots": [str(slot) for slot in slots],
    }


def seeds() -> dict[str, Any]:
    """Genesis, two settled epochs and an abandoned one."""
    reveals = [reveals_digest({0: keccak(b"a"), 7: keccak(b"b")}), reveals_digest({})]
    chain = [keccak(b"genesis")]
    for reveal in reveals:
        chain.append(next_seed(chain[-1], reveal))
    chain.append(skip_seed(chain[-1]))
    return {"reveals": [text(reveal) for reveal in reveals], "chain": [text(seed) for seed in chain]}


def report(number: int, slashes: tuple[ReportedSlash, ...]) -> dict[str, Any]:
    words = {name: keccak(b"%s %d" % (name.encode(), number)) for name in ("previous", "seed", "reveals", "root")}
    made = Report(
        TASK, 2**64 - 1 if number else 1, words["previous"], words["seed"], words["reveals"], words["root"],
        10**27 + number, slashes, keccak(b"model"), keccak(b"record"), account(number),
    )  # fmt: skip
    return {
        "epoch": str(made.epoch),
        "previousReport": text(made.previous_report),
        "seed": text(made.seed),
        "revealsDigest": text(made.reveals_digest),
        "rewardsRoot": text(made.rewards_root),
        "rewardsTotal": str(made.rewards_total),
        "slashMembers": [str(slash.member) for slash in slashes],
        "slashAmounts": [str(slash.amount) for slash in slashes],
        "modelHash": text(made.model_hash),
        "recordHash": text(made.record_hash),
        "relayer": made.relayer,
        "hash": text(report_hash(made)),
        "digest": text(report_digest(DOMAIN, made)),
        "signature": text(compact(SIGNER.sign_digest(report_digest(DOMAIN, made)))),
    }


def message(number: int, kind: str) -> dict[str, Any]:
    seed, digest = keccak(b"message seed %d" % number), keccak(b"digest %d" % number)
    return {
        "epoch": str(number),
        "seed": text(seed),
        "kind": kind,
        "digest": text(digest),
        "signed": text(message_digest(DOMAIN, TASK, number, seed, kind, digest)),
    }


def vectors() -> dict[str, Any]:
    """The whole file."""
    slashes = (
        (),
        (ReportedSlash(3, TOKEN),),
        (ReportedSlash(0, 1), ReportedSlash(2**32 - 1, 2**128 - 1), ReportedSlash(0, 0)),
    )
    texts = ("commitment", "ballot_a", "", "Straße 42 \N{SNOWMAN}")
    return {
        "chainId": str(DOMAIN.chain_id),
        "settlement": DOMAIN.contract,
        "distributor": DOMAIN.distributor,
        "task": text(TASK),
        "signer": SIGNER.address,
        "trees": [tree(size) for size in TREE_SIZES],
        "draws": [draw(number, *sizes) for number, sizes in enumerate(DRAWS)],
        "seeds": seeds(),
        "reports": [report(number, some) for number, some in enumerate(slashes)],
        "messages": [message(number, kind) for number, kind in enumerate(texts)],
        "kinds": sorted({str(kind) for kind in (*Kind, *ContestKind)}),
    }


def encoded() -> str:
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(encoded())
