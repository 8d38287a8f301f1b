from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flock_ray.chain.anvil import HOST, AnvilProcess, find_anvil
from flock_ray.chain.embedded import GENESIS_TIME, AnvilNode, EmbeddedNode
from flock_ray.chain.evm import EthTesterNode
from flock_ray.chain.failures import NonceUsedError
from flock_ray.chain.journal import Block, Genesis
from flock_ray.chain.keys import run_signer
from flock_ray.errors import ChainError, ChainUnreachableError, FundsError, RunDirectoryError, WrongChainError
from tests.waiting import wait_until

pytestmark = pytest.mark.chain

ALICE, BOB, PAUPER = (run_signer(1, name) for name in ("alice", "bob", "pauper"))
FUNDED = [ALICE.address, BOB.address]
Open = Callable[..., EmbeddedNode]


@pytest.fixture
def start(backend: str, tmp_path: Path) -> Iterator[Open]:
    """Starts a node on a folder of the test; all are closed in the end."""
    opened: list[EmbeddedNode] = []

    def opener(folder: str = "chain", funded: list[str] = FUNDED) -> EmbeddedNode:
        kind = EthTesterNode if backend == "eth_tester" else AnvilNode
        opened.append(kind(tmp_path / folder, funded))
        return opened[-1]

    yield opener
    for node in opened:
        node.close()


def pay(node: EmbeddedNode, nonce: int, signer: Any = ALICE, **changes: object) -> bytes:
    max_fee, tip = node.fees()
    fields = {
        "type": 2, "chainId": node.chain_id, "nonce": nonce, "to": BOB.address, "value": 5, "gas": 21_000,
        "maxFeePerGas": max_fee, "maxPriorityFeePerGas": tip, "data": b"",
    }  # fmt: skip
    return bytes(signer.sign_transaction({**fields, **changes}))


def blocks(folder: Path) -> list[Block]:
    return [Block.from_line(line) for line in (folder / "blocks.jsonl").read_bytes().splitlines()]


def test_the_same_transactions_give_the_same_chain_at_any_time(start: Open, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        node = start(folder)
        for nonce, epoch in enumerate([0, 0, 1, 2, 1, 5]):
            if folder == "two":
                time.sleep(0.25)  # the wall clock moves on, by more than a second in all
            node.send(pay(node, nonce), epoch)
    assert blocks(tmp_path / "one") == blocks(tmp_path / "two")


def test_time_follows_epochs_and_block_numbers(start: Open, tmp_path: Path) -> None:
    node = start()
    assert node.timestamp() == GENESIS_TIME
    for nonce, epoch in enumerate([0, 0, 2, 2, 1]):
        receipt = node.receipt(node.send(pay(node, nonce), epoch))
        assert receipt is not None and receipt[0].block == nonce + 1
    times = [block.timestamp - GENESIS_TIME for block in blocks(tmp_path / "chain")]
    assert times == [1, 2, 1203, 1204, 1205]  # a late settlement of epoch 1 does not turn the clock back
    assert node.timestamp() == GENESIS_TIME + 1205


def test_what_is_sent_twice_happens_once(start: Open) -> None:
    node = start()
    raw = pay(node, 0)
    assert node.send(raw, 0) == node.send(raw, 3)
    assert (node.nonce(ALICE.address), node.timestamp()) == (1, GENESIS_TIME + 1)


def test_what_is_refused_leaves_no_trace(start: Open, tmp_path: Path) -> None:
    node = start()
    node.send(pay(node, 0), 0)
    refused = [
        (NonceUsedError, pay(node, 0, value=6)),
        (NonceUsedError, pay(node, 2)),
        (FundsError, pay(node, 1, value=10**30)),
        (FundsError, pay(node, 0, PAUPER)),
        (WrongChainError, pay(node, 1, chainId=5)),
        (ChainError, pay(node, 1, maxFeePerGas=10**6)),
        (ChainError, b""),
        (ChainError, b"\x02\xc0"),
        (ChainError, os.urandom(100)),
        (ChainError, pay(node, 1)[:-1]),
    ]
    for error, raw in refused:
        with pytest.raises(error):
            node.send(raw, 0)
    node.send(pay(node, 1), 0)
    assert len(blocks(tmp_path / "chain")) == 2 and node.nonce(ALICE.address) == 2


def test_a_chain_is_rebuilt_from_its_folder(start: Open, tmp_path: Path) -> None:
    node = start()
    hashes = [node.send(pay(node, nonce), nonce) for nonce in range(4)]
    before = [node.receipt(tx_hash) for tx_hash in hashes]
    state = (node.balance(ALICE.address), node.balance(BOB.address), node.timestamp())
    node.close()
    again = start()
    assert [again.receipt(tx_hash) for tx_hash in hashes] == before
    assert (again.balance(ALICE.address), again.balance(BOB.address), again.timestamp()) == state
    again.send(pay(again, 4), 4)
    assert [block.number for block in blocks(tmp_path / "chain")] == [1, 2, 3, 4, 5]


def test_a_journal_that_gives_another_chain_is_refused(start: Open, tmp_path: Path) -> None:
    node = start()
    for nonce in range(3):
        node.send(pay(node, nonce), 0)
    node.close()
    path = tmp_path / "chain" / "blocks.jsonl"
    original = path.read_text().splitlines()
    other = dict(json.loads(original[1]))
    for key, value in {
        "timestamp": other["timestamp"] + 1,
        "raws": [pay(node, 1, value=6).hex()],
        "hash": "00" * 32,
    }.items():
        path.write_text("\n".join([original[0], json.dumps({**other, key: value}), original[2], ""]))
        with pytest.raises(RunDirectoryError, match=r"block [23] of the chain's journal"):
            start()


def test_other_accounts_make_another_chain(start: Open) -> None:
    start().close()
    with pytest.raises(RunDirectoryError, match="another configuration"):
        start(funded=[ALICE.address])


@pytest.mark.anvil
def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ChainUnreachableError, match=f"port {port} for anvil: Address already in use"):
            AnvilNode(tmp_path, FUNDED, port=port)
    assert not (tmp_path / "genesis.json").exists()
    AnvilNode(tmp_path, FUNDED, port=port).close()


def test_without_anvil_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOCK_RAY_ANVIL", str(tmp_path / "missing"))
    with pytest.raises(ChainUnreachableError, match="FLOCK_RAY_ANVIL names"):
        AnvilNode(tmp_path, FUNDED)
    monkeypatch.setenv("FLOCK_RAY_ANVIL", sys.executable)  # a program, but no anvil
    with pytest.raises(ChainUnreachableError, match="ended at once"):
        AnvilNode(tmp_path, FUNDED)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.anvil
def test_anvil_dies_with_its_parent() -> None:
    code = (
        "import time; from flock_ray.chain.anvil import *; from flock_ray.chain.journal import Genesis;"
        "p = AnvilProcess(Genesis('anvil', 1, 1, {})); print(p._process.pid, flush=True); time.sleep(3_000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: gone(child))


@pytest.mark.anvil
def test_close_ends_anvil_and_may_come_twice() -> None:
    process = AnvilProcess(Genesis("anvil", 1, 1, {}))
    pid = process._process.pid
    process.close()
    process.close()
    wait_until(lambda: gone(pid))


def test_anvil_is_looked_for_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "anvil"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_anvil() == program
    other = tmp_path / "other"
    other.touch(mode=0o755)
    monkeypatch.setenv("FLOCK_RAY_ANVIL", str(other))
    assert find_anvil() == other
