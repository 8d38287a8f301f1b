"""An existing chain at a url: here an anvil that this package does not own."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flock_ray.chain import transactions
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.client import ChainClient
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.node import MIN_TIP
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.values import Addresses
from flock_ray.errors import ChainError, ChainUnreachableError, FundsError, KeyMissingError, WrongChainError
from flock_ray.protocol.hashing import keccak
from tests.chain.world import RUN_SEED, World, spec

CHAIN_ID = 4_711
CREDENTIALS = "user:hunter2@"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def foreign() -> Iterator[str]:
    """Url of a chain on which the accounts of the run have gas money."""
    names = ["creator", "relayer", *(f"member-{i}" for i in range(5))]
    alloc = {run_signer(RUN_SEED, name).address: GAS_MONEY for name in names}
    process = AnvilProcess(Genesis("anvil", CHAIN_ID, GENESIS_TIME, alloc))
    yield process.url
    process.close()


@pytest.fixture
def relayer(monkeypatch: pytest.MonkeyPatch) -> Signer:
    signer = run_signer(RUN_SEED, "relayer")
    monkeypatch.setenv("FLOCK_RAY_RELAYER_KEY", signer._key.to_hex())
    return signer


@contextmanager
def server(answer: dict[str, Any] | bytes, status: int = 200) -> Iterator[str]:
    """A web server that answers every request alike."""
    body = answer if isinstance(answer, bytes) else json.dumps({"jsonrpc": "2.0", "id": 1, **answer}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def test_nobody_there() -> None:
    with pytest.raises(ChainUnreachableError, match=r"no answer from the RPC at 127\.0\.0\.1") as caught:
        RpcNode(f"http://{CREDENTIALS}127.0.0.1:{free_port()}/v3/secret-token")
    assert "hunter2" not in str(caught.value) and "secret-token" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("url", ["", "localhost:8545", "ftp://host", "http://", "ws://host:1", "http://[::"])
def test_no_url(url: str) -> None:
    with pytest.raises(ChainUnreachableError, match=r"chain\.url is no http"):
        RpcNode(url)


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (b"denied", 401, "HTTP status 401"),
        (b"busy", 503, "HTTP status 503"),
        (b"<html>", 200, "JSONDecodeError"),
        ({"error": {"code": -32601, "message": "no such method"}}, 200, "does not tell its chain id"),
        ({"result": None}, 200, "does not tell its chain id"),
        ({"result": "pretty"}, 200, "does not tell its chain id"),
    ],
)
def test_something_else_is_there(answer: dict[str, Any] | bytes, status: int, reason: str) -> None:
    with server(answer, status) as host, pytest.raises(ChainUnreachableError, match=reason) as caught:
        RpcNode(f"http://{CREDENTIALS}{host}/secret-token")
    assert "hunter2" not in str(caught.value) and "secret-token" not in str(caught.value)


@pytest.mark.anvil
def test_another_chain(foreign: str) -> None:
    with pytest.raises(WrongChainError, match=r"serves chain id 4711, chain\.chain_id is 8453"):
        RpcNode(foreign, 8_453)
    node = RpcNode(foreign, CHAIN_ID)
    assert node.chain_id == CHAIN_ID
    node.close()


@pytest.mark.anvil
def test_fees_are_twice_the_base_fee_and_a_tip_below_it(foreign: str) -> None:
    node = RpcNode(foreign)
    max_fee, tip = node.fees()
    assert (max_fee, tip) == (2 * 10**9 + 10**9, 10**9)
    node._request("anvil_setNextBlockBaseFeePerGas", [hex(10**7)])
    node._request("evm_mine", [])
    assert node.fees() == (3 * 10**7, 10**7)
    node._request("anvil_setNextBlockBaseFeePerGas", ["0x1"])
    node._request("evm_mine", [])
    assert node.fees() == (2 + MIN_TIP, MIN_TIP)
    node.close()


@pytest.mark.anvil
def test_the_relayer_needs_a_key(foreign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyMissingError, match="no key for relayer"):
        ChainClient(spec("rpc", url=foreign), str(tmp_path))
    assert not (tmp_path / "chain").exists()


@pytest.mark.anvil
def test_a_task_lives_on_an_existing_chain(foreign: str, relayer: Signer, tmp_path: Path) -> None:
    world = World(spec("auto", url=foreign, chain_id=CHAIN_ID), tmp_path)
    assert (world.client.info().backend, world.client.info().relayer) == ("rpc", relayer.address)
    world.deploy()
    world.create()
    world.earned = {member.address: 10**18 for member in world.members}
    report, _ = world.report()
    receipt = world.settle(report)
    addresses = world.client.info()
    world.client.close()

    (tmp_path / "chain" / "outbox.sqlite").unlink()  # another machine: the logs tell which transaction it was
    contracts = {"token": addresses.token, "task": addresses.task, "settlement": addresses.settlement}
    world.client = ChainClient(replace(spec("rpc", url=foreign), **contracts), str(tmp_path))
    assert world.client.info() == addresses
    assert world.client.settle(report, 0b1111, b"") == receipt
    world.client.close()


@pytest.mark.anvil
def test_addresses_without_the_contracts_are_refused(foreign: str, relayer: Signer, tmp_path: Path) -> None:
    world = World(spec("rpc", url=foreign), tmp_path)
    world.deploy()
    info = world.client.info()
    with pytest.raises(ChainError, match=f"no contract at {relayer.address}, where TaskRegistry should be"):
        world.client.set_contracts(Addresses(info.token, relayer.address, info.settlement))
    with pytest.raises(ChainError, match=f"TaskRegistry.token at {info.token} reverted"):
        world.client.set_contracts(Addresses(info.token, info.token, info.settlement))
    for broken in (Addresses(info.token, info.task, ""), Addresses("0x12", info.task, info.settlement)):
        with pytest.raises(ChainError, match="must be three addresses"):
            world.client.set_contracts(broken)
    first = info.task
    world.deploy()
    with pytest.raises(ChainError, match="belongs to another token"):
        world.client.set_contracts(Addresses(world.client.info().token, first, info.settlement))
    world.client.close()


@pytest.mark.anvil
def test_a_member_without_gas_money(foreign: str, relayer: Signer, tmp_path: Path) -> None:
    world = World(spec("rpc", url=foreign), tmp_path)
    world.deploy()
    stranger = Signer.derive(keccak(b"stranger"))
    with pytest.raises(FundsError, match=f"{stranger.address} has 0 wei for gas, needs"):
        world.do(stranger, lambda s, c: transactions.start(s, c, keccak(b"task")))
    world.client.close()
