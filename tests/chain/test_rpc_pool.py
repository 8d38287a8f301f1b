"""Several endpoints of one chain: the first that is fit answers, and reads never step back in time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from flock_ray.chain import rpc
from flock_ray.chain.http_node import HttpNode
from flock_ray.chain.rpc import RpcNode
from flock_ray.errors import ChainUnreachableError, WrongChainError

GENESIS = "0x" + "11" * 32
ACCOUNT = "0x" + "22" * 20


class Endpoint:
    """An endpoint that tells what it is set to tell."""

    def __init__(self, balance: int, **identity: Any) -> None:
        self.chain_id, self.genesis = identity.get("chain_id", 7), identity.get("genesis", GENESIS)
        self.head, self.balance, self.up, self.busy, self.batches = 100, balance, True, False, True
        self.takes_one = False  # a batch gets an HTTP error
        self.asked: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                refused = endpoint.takes_one and isinstance(request, list)
                body = "" if refused else json.dumps(endpoint.respond(request))
                self.send_response(413 if refused else 200 if endpoint.up else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://user:hunter2@127.0.0.1:{self.http.server_port}/secret-token"

    def respond(self, request: Any) -> Any:
        if not isinstance(request, list):
            self.asked.append(request["method"])
            return {"jsonrpc": "2.0", "id": request["id"], **self.answer(request["method"])}
        if not self.batches:
            return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no batches"}}
        self.asked.append(f"{len(request)} at once")
        return [{"jsonrpc": "2.0", "id": one["id"], **self.answer(one["method"])} for one in reversed(request)]

    def answer(self, method: str) -> dict[str, Any]:
        if self.busy:
            return {"error": {"code": -32005, "message": "limit exceeded"}}
        return {
            "eth_chainId": {"result": hex(self.chain_id)},
            "eth_blockNumber": {"result": hex(self.head)},
            "eth_getBlockByNumber": {"result": {"hash": self.genesis}},
            "eth_getBalance": {"result": hex(self.balance)},
            "eth_sendRawTransaction": {"result": "0x" + "33" * 32},
        }[method]


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two endpoints of one chain; the first tells a balance of 1, the second of 2."""
    monkeypatch.setattr(rpc, "_CHECK_EVERY", 0.0)
    monkeypatch.setattr(rpc, "_FIRST_REST", 0.0)
    monkeypatch.setattr(rpc, "_LAST_REST", 0.0)
    pair = Endpoint(1), Endpoint(2)
    yield pair
    for endpoint in pair:
        endpoint.http.shutdown()
        endpoint.http.server_close()


def test_the_first_that_answers_is_used_and_the_next_when_it_fails(two: tuple[Endpoint, Endpoint]) -> None:
    first, second = two
    node = RpcNode([first.url, second.url])
    assert node.balance(ACCOUNT) == 1 and "eth_getBalance" not in second.asked
    for trouble in ("up", "busy"):
        setattr(first, trouble, not getattr(first, trouble))
        assert node.balance(ACCOUNT) == 2
        setattr(first, trouble, not getattr(first, trouble))
        assert node.balance(ACCOUNT) == 1
    first.up = second.up = False
    with pytest.raises(ChainUnreachableError, match=r"the RPC at 127\.0\.0\.1, 127\.0\.0\.1 \(HTTP status 503"):
        node.balance(ACCOUNT)
    node.close()


def test_an_endpoint_that_failed_rests_while_there_are_others(
    two: tuple[Endpoint, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "_FIRST_REST", 60.0)
    first, second = two
    node = RpcNode([first.url, second.url])
    first.up = False
    assert node.balance(ACCOUNT) == 2
    first.up = True
    asked = len(first.asked)
    assert node.balance(ACCOUNT) == 2 and len(first.asked) == asked
    second.up = False
    assert node.balance(ACCOUNT) == 1
    node.close()


def test_an_endpoint_behind_what_was_seen_is_left_out(two: tuple[Endpoint, Endpoint]) -> None:
    first, second = two
    node = RpcNode([first.url, second.url])
    assert node.balance(ACCOUNT) == 1
    first.head = 99
    assert node.balance(ACCOUNT) == 2
    second.head = 99
    with pytest.raises(ChainUnreachableError, match="its head 99 is behind block 100"):
        node.balance(ACCOUNT)
    first.head = 101
    assert node.balance(ACCOUNT) == 1
    node.close()


def test_transactions_go_to_every_endpoint(two: tuple[Endpoint, Endpoint]) -> None:
    first, second = two
    node = RpcNode([first.url, second.url])
    node._request("eth_sendRawTransaction", ["0x00"])
    assert [endpoint.asked.count("eth_sendRawTransaction") for endpoint in two] == [1, 1]
    first.up = False
    node._request("eth_sendRawTransaction", ["0x00"])
    assert second.asked.count("eth_sendRawTransaction") == 2
    node.close()


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ({"chain_id": 8}, "serves chain id 8, chain.chain_id is 7"),
        ({"genesis": "0x" + "99" * 32}, "serves another chain than the others of chain.url"),
    ],
)
def test_another_chain_among_the_endpoints_is_refused(
    two: tuple[Endpoint, Endpoint], identity: dict[str, Any], reason: str
) -> None:
    stranger = Endpoint(3, **identity)
    with pytest.raises(WrongChainError, match=reason) as caught:
        RpcNode([two[0].url, stranger.url], 7)
    assert "hunter2" not in str(caught.value) and "secret-token" not in str(caught.value)
    stranger.http.shutdown()
    stranger.http.server_close()


def test_one_that_was_away_at_the_start_is_checked_before_it_is_used(two: tuple[Endpoint, Endpoint]) -> None:
    first, second = two
    first.up = False
    node = RpcNode([first.url, second.url], 7)
    first.up, first.genesis = True, "0x" + "99" * 32
    assert node.balance(ACCOUNT) == 2
    second.up = False
    with pytest.raises((ChainUnreachableError, WrongChainError)):
        node.balance(ACCOUNT)
    assert "eth_getBalance" not in first.asked
    node.close()


def test_many_accounts_are_asked_for_in_batches(
    two: tuple[Endpoint, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpNode, "batch_size", 3)
    first, second = two
    node = RpcNode([first.url, second.url])
    assert node.balances([ACCOUNT] * 7) == [1] * 7
    told = [what for what in first.asked if what == "eth_getBalance" or "at once" in what]
    assert told == ["3 at once", "3 at once", "eth_getBalance"] and not any("at once" in what for what in second.asked)
    first.busy = True
    assert node.balances([ACCOUNT] * 3) == [2] * 3
    first.busy, first.batches = False, False
    assert node.balances([ACCOUNT] * 3) == [1] * 3
    node.close()


def test_an_endpoint_that_refuses_batches_with_an_http_error_is_asked_one_by_one(
    two: tuple[Endpoint, Endpoint],
) -> None:
    first, second = two
    node = RpcNode([first.url, second.url])
    first.takes_one = True
    for _ in range(2):
        first.asked.clear()
        assert node.balances([ACCOUNT] * 3) == [1] * 3
        assert first.asked.count("eth_getBalance") == 3 and "eth_getBalance" not in second.asked
    first.up = False  # an endpoint that is down is no endpoint that refuses batches
    second.takes_one = False
    assert node.balances([ACCOUNT] * 3) == [2] * 3
    node.close()
