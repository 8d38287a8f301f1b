"""What a run claims of its chain: the contracts that it began on, abandoned epochs, and what its epochs did there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flock_ray.chain.rpc import RpcNode
from flock_ray.errors import RunDirectoryError
from flock_ray.protocol.state import TaskState
from flock_ray.verify.chain import ChainCheck, Settled, replayed_chain
from flock_ray.verify.compare import require
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.genesis import TaskGenesis

Emit = Callable[[str], None]


def is_abandoned(folder: RunFolder, genesis: TaskGenesis, epoch: int) -> bool:
    """Whether the run claims that the epoch was abandoned; `ChainCheck.abandoned` checks it on chain later."""
    name = f"receipts/{epoch}.json"
    if not folder.has(name) or not folder.json(name).get("abandoned"):
        return False
    require(genesis.has_chain, f"{name} calls the epoch abandoned, and there is no chain to abandon it on")
    require(not folder.has(f"records/{epoch}.json"), f"{name} calls the epoch abandoned, yet it has a record")
    return True


def open_chain(folder: RunFolder, genesis: TaskGenesis, rpc: str, emit: Emit) -> ChainCheck:
    """The chain of the run, whose contracts belong together and hold the task that the run started from."""
    if genesis.on_rpc:
        if not rpc:
            raise RunDirectoryError("this run settled on an external chain; name a node that you trust with --rpc URL")
        check = ChainCheck(RpcNode([rpc], genesis.domain.chain_id), genesis)
    else:
        check = ChainCheck(replayed_chain(folder), genesis)
    check.contracts()
    code = (
        "their code was not compared" if genesis.on_rpc else "deployed from this package's code, run again from genesis"
    )
    emit(f"contracts  tied to each other; {code}")
    check.terms()
    emit("members    terms, stakes and hash-chain tips on chain")
    return check


def check_settled(
    check: ChainCheck,
    genesis: TaskGenesis,
    epochs: Sequence[Settled],
    abandoned: Sequence[TaskState],
    final: TaskState,
    emit: Emit,
) -> None:
    """Check what the epochs did on chain."""
    for epoch in epochs:
        check.epoch(epoch)
    for state in abandoned:
        check.abandoned(state)
    check.end(epochs, final)
    emit(f"settled    {len(epochs)} reports in order, totals, rewards root, slashes, seed, refund")
    check.wallets(epochs, final)
    result = "no claim above what was earned" if genesis.on_rpc else "claims, stakes and every token accounted for"
    emit(f"money      {result}")
