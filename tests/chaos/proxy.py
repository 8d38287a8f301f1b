"""A JSON-RPC proxy before an anvil that loses, doubles, holds back and falsifies what goes through it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from flock_ray.chain.keys import Signer
from flock_ray.protocol.hashing import keccak

GWEI = 10**9


def fields_of(raw: bytes) -> dict[str, Any]:
    return dict(TypedTransaction.from_bytes(HexBytes(raw)).as_dict())


class Proxy:
    """Passes requests on to an anvil, but for the faults that are set.

    Attributes:
        url: where it listens.
        on_send: faults for the next transactions handed in, by class, first come first served.
        fired: how often each class of fault took place.
        stolen: hashes of transactions that took a nonce of the relayer's.
        sent: raw transactions handed in, in order.
        before_send: looks at each of them before the chain can have it.
    """

    def __init__(self, port: int, relayer: Signer, floor: int) -> None:
        """Stand before the anvil at `port`; blocks up to number `floor` are never taken back."""
        self._port, self._relayer, self.floor = port, relayer, floor
        self._local = threading.local()
        self._lock = threading.RLock()
        self.before_send: Callable[[bytes], None] = lambda raw: None
        self.reset()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answers = []
                for one in request if isinstance(request, list) else [request]:
                    with proxy._lock:
                        answer = proxy.answer(one["method"], one["params"])
                    if answer is None:
                        break
                    answers.append({"jsonrpc": "2.0", "id": one["id"], **answer})
                if answer is None:
                    self.send_response(503)
                    body = b"busy"
                else:
                    self.send_response(200)
                    body = json.dumps(answers if isinstance(request, list) else answers[0]).encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def reset(self) -> None:
        """Forget all faults."""
        self.on_send: list[tuple[str, int]] = []
        self.fired: Counter[str] = Counter()
        self.stolen: set[bytes] = set()
        self.sent: list[bytes] = []
        self.outage = 0  # requests that get no answer
        self._stale, self._stale_block = 0, 0  # requests that see the chain as it was
        self._reorg_in: int | None = None  # requests until blocks are taken back
        self._reorg_depth = 0
        self._slow: int | None = None  # requests until blocks are made again
        self._held: bytes | None = None  # transaction that is passed over
        self._lost = False  # anvil keeps the states of some hundred blocks only, and reorganizes to nothing behind them

    # The chain behind.

    def ask(self, method: str, *params: Any) -> Any:
        """Ask the chain itself; fails on an error."""
        answer = self.forward(method, list(params))
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def forward(self, method: str, params: list[Any]) -> dict[str, Any]:
        connection: HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        return {key: answer[key] for key in ("result", "error") if key in answer}

    def head(self) -> int:
        return int(self.ask("eth_blockNumber"), 16)

    # Faults that are set from outside, and the faults of transactions.

    def go_down(self, requests: int) -> None:
        self.fired["outage"] += 1
        self.outage = requests

    def lag(self, blocks: int, requests: int) -> None:
        self._stale, self._stale_block = requests, max(self.floor, self.head() - blocks)
        self.fired["stale_head"] += self._stale_block < self.head()

    def calm(self) -> None:
        """Let everything that is under way happen now; what is held back stays so."""
        with self._lock:
            self.outage = self._stale = 0
            if self._slow is not None:
                self._mine_again()
            if self._reorg_in is not None:
                self._reorg()

    def answer(self, method: str, params: list[Any]) -> dict[str, Any] | None:
        """What the client gets; None for nothing at all."""
        if self.outage:
            self.outage -= 1
            return None
        self._pass_time()
        if self._lost:
            return {
                "error": {"code": -32000, "message": "anvil lost its state in a reorganization: begin with another"}
            }
        if method == "eth_sendRawTransaction":
            raw = bytes.fromhex(params[0].removeprefix("0x"))
            self.sent.append(raw)
            self.before_send(raw)
            return self._take(raw)
        if self._held is not None:
            if method == "eth_blockNumber":
                self.ask("evm_mine")
            if method == "eth_getTransactionByHash" and params[0] == "0x" + keccak(self._held).hex():
                return {"result": {"hash": params[0], "blockNumber": None, "blockHash": None}}
        if self._stale:
            self._stale -= 1
            return self._as_it_was(method, params)
        return self.forward(method, params)

    def _pass_time(self) -> None:
        if self._reorg_in is not None:
            self._reorg_in -= 1
            if self._reorg_in <= 0 and self.head() > self.floor:
                self._reorg()
        if self._slow is not None:
            self._slow -= 1
            if self._slow <= 0:
                self._mine_again()

    def _mine_again(self) -> None:
        self._slow = None
        self.ask("evm_setAutomine", True)
        self.ask("evm_mine")

    def _reorg(self) -> None:
        depth = min(self._reorg_depth, self.head() - self.floor)
        self._reorg_in = None
        if depth > 0:
            self.fired["reorged"] += 1
            self.ask("anvil_reorg", depth, [])
            self._lost = not int(self.ask("eth_getBalance", self._relayer.address, "latest"), 16)
            self.follow_base_fee()

    def follow_base_fee(self) -> None:
        """Have the next block's fee follow from the head: anvil keeps that of the blocks that are gone."""
        self.ask("anvil_setNextBlockBaseFeePerGas", self.ask("eth_getBlockByNumber", "latest", False)["baseFeePerGas"])

    def _as_it_was(self, method: str, params: list[Any]) -> dict[str, Any]:
        old = hex(self._stale_block)
        if method == "eth_blockNumber":
            return {"result": old}
        now = [old if one in ("latest", "pending") else one for one in params]
        answer = self.forward(method, now)
        result = answer.get("result")
        block = result.get("blockNumber") if isinstance(result, dict) else None
        if block is not None and int(block, 16) > self._stale_block:
            return {"result": None}
        return answer

    def _take(self, raw: bytes) -> dict[str, Any]:
        """A transaction is handed in."""
        known = {"result": "0x" + keccak(raw).hex()}
        if self._is_used(raw):  # and so no fault can befall it
            return self._hand_on(raw)
        if self._held is not None:
            return self._replace(raw, known)
        kind, number = self.on_send.pop(0) if self.on_send else ("", 0)
        if kind and kind not in ("reorged", "nonce_theft"):
            self.fired[kind] += 1
        if kind == "dropped":
            return known
        if kind == "duplicated":
            self._hand_on(raw)
        elif kind == "stuck" and number % 2:
            self._held = raw
            return known
        elif kind == "stuck":
            self.ask("evm_setAutomine", False)
            self._slow = 5 + number
        elif kind == "under_priced" and number % 2:
            return {"error": {"code": -32000, "message": "transaction underpriced"}}
        elif kind == "under_priced":
            self.ask("anvil_setNextBlockBaseFeePerGas", hex((10 + number) * GWEI))
            self.ask("evm_mine")
        elif kind == "nonce_theft":
            self._steal(raw)
        elif kind == "reorged":
            self._reorg_in, self._reorg_depth = 2 + number, 1 + number % 3
        return self._hand_on(raw)

    def _is_used(self, raw: bytes) -> bool:
        """Whether the nonce of a transaction is used up."""
        return fields_of(raw)["nonce"] < int(self.ask("eth_getTransactionCount", self._relayer.address, "latest"), 16)

    def _hand_on(self, raw: bytes) -> dict[str, Any]:
        return self.forward("eth_sendRawTransaction", ["0x" + raw.hex()])

    def _replace(self, raw: bytes, known: dict[str, Any]) -> dict[str, Any]:
        """As nodes do: the same nonce needs a tenth more of both fees."""
        assert self._held is not None
        if raw == self._held:
            return {"error": {"code": -32000, "message": "already known"}}
        old, new = fields_of(self._held), fields_of(raw)
        if new["nonce"] != old["nonce"]:
            return known  # queued behind it
        if any(10 * new[fee] < 11 * old[fee] for fee in ("maxFeePerGas", "maxPriorityFeePerGas")):
            return {"error": {"code": -32000, "message": "replacement transaction underpriced"}}
        self._held = None
        return self._hand_on(raw)

    def _steal(self, raw: bytes) -> None:
        victim = fields_of(raw)
        fields = {
            "type": 2, "chainId": victim["chainId"], "nonce": victim["nonce"], "gas": 21_000, "value": 0, "data": b"",
            "maxFeePerGas": 2 * victim["maxFeePerGas"], "maxPriorityFeePerGas": 2 * victim["maxPriorityFeePerGas"],
            "to": self._relayer.address,
        }  # fmt: skip
        thief = self._relayer.sign_transaction(fields)
        if "result" in self._hand_on(thief):  # not if it is used already
            self.stolen.add(keccak(thief))
            self.fired["nonce_theft"] += 1
