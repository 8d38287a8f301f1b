"""Gas of a contest's days on the deployed contracts: nodes enter, a day is settled for them, everybody is paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flock_ray.chain import transactions
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.values import TOKEN
from flock_ray.protocol.roles import quorum

if TYPE_CHECKING:
    from benchmarks.gas import Chain, Task

NODES, QUICK_NODES = 1_000, 64
NODE_STAKE = TOKEN
STEADY = 3  # first day that counts
WHAT = (
    "contest: a contest of 40 validators with a slot each, whose nodes have entered on chain; every validator and every"
    " node earns something each day. enter is a node's transaction alone: its stake is in the vault before; settlement"
    " is a day's, in the steady state; relayed_claims pays everybody by multiproofs of at most 100, in the steady"
    " state; gas_per_day is the two together, node_claim a node's own claim. resign and release are of one node; on"
    " this chain, which has no evidence window, one release is enough."
)


def signers() -> list[Signer]:
    """Accounts of all nodes."""
    return [run_signer(0, f"node-{number}") for number in range(NODES)]


def enter(chain: Chain, task: Task, nodes: Sequence[Signer], stake: int) -> list[int]:
    """Everybody enters with stake that is in the vault already; gas of each `enter`."""
    grants = [(node.address, stake) for node in nodes]
    _send_together(chain, transactions.transfer(chain.creator, chain.context(chain.creator), grants))
    entering = list[bytes]()
    for node in nodes:
        approve_and_stake = transactions.enter(node, chain.context(node), task.name, stake, task.expected)
        entering.append(approve_and_stake.pop())
        _send_together(chain, approve_and_stake)
        task.earned[node.address] = 0
    return _send_together(chain, entering)


def _send_together(chain: Chain, raws: Sequence[bytes]) -> list[int]:
    """Mine transactions, as many as fit in a block at a time; gas of each. All must succeed."""
    hashes = [tx_hash for mined in chain.node.send_in_groups(raws, 0) for tx_hash in mined]
    found = [found for found in chain.node.receipts(hashes) if found is not None and found[1]]
    assert len(found) == len(raws)
    return [receipt.gas_used for receipt, _ in found]


def pay_all(task: Task) -> int:
    """Gas of the claims that pay everybody."""
    accounts, most = list(task.earned), transactions.MAX_CLAIMS
    return sum(task.claim_many(accounts[first : first + most]) for first in range(0, len(accounts), most))


def measure(chain: Chain, task: Task, nodes: Sequence[Signer], stake: int) -> dict[str, Any]:
    """All figures of a contest with so many nodes."""
    entered = enter(chain, task, nodes, stake)
    seats = (1 << quorum(task.num_voters)) - 1
    settled = [task.settle(seats) for _ in range(STEADY)]
    pay_all(task)
    settled.append(task.settle(seats))
    claimed = pay_all(task)
    settled.append(task.settle(seats))
    leaver, registry = nodes[0], chain.addresses.task
    claim = task.claim(leaver)
    (raw,) = transactions.resign(leaver, chain.context(leaver), task.name)
    resigned = chain.send(raw).gas_used
    ((_, _, (last_settled, *_)),) = chain.read("EpochSettlement", chain.addresses.settlement, "headOf", task.name)
    (leaves_from,) = chain.read("TaskRegistry", registry, "leavesFrom", task.name, leaver.address)
    for _ in range(leaves_from - last_settled):
        settled.append(task.settle(seats))
    (raw,) = transactions.release(leaver, chain.context(leaver), task.name, leaver.address)
    steady = settled[STEADY - 1 :]
    return {
        "nodes": len(nodes),
        "leaves": len(task.earned),
        "enter_first": entered[0],
        "enter_max": max(entered[1:]),
        "enter_all": sum(entered),
        "settlement_by_day": settled,
        "settlement": sum(steady) / len(steady),
        "relayed_claims": claimed,
        "node_claim": claim,
        "resign": resigned,
        "release": chain.send(raw).gas_used,
        "gas_per_day": sum(steady) / len(steady) + claimed,
    }


def headline(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The figures that count, by their numbers of nodes."""
    figures = {"node_enter_gas": measured["64"]["enter_max"], "node_claim_gas_64": measured["64"]["node_claim"]}
    for nodes, found in measured.items():
        figures |= {f"gas_per_day_{nodes}": found["gas_per_day"], f"settle_gas_day_{nodes}": found["settlement"]}
    return figures
