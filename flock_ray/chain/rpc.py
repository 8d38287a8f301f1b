"""An existing chain behind one or several RPC endpoints, tried in order, skipping those that fail or lag."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import requests
from web3 import HTTPProvider, Web3
from web3.middleware import ExtraDataToPOAMiddleware
from web3.providers.base import JSONBaseProvider
from web3.providers.rpc.utils import ExceptionRetryConfiguration
from web3.types import RPCEndpoint, RPCResponse

from flock_ray.chain.failures import NO_ANSWER, UnfitError, kind_of
from flock_ray.chain.http_node import HttpNode
from flock_ray.chain.node import MIN_TIP
from flock_ray.chain.signed import parse
from flock_ray.errors import ChainError, ChainUnreachableError, WrongChainError
from flock_ray.protocol.hashing import keccak

_REQUEST_TIMEOUT = 20.0  # seconds
_FIRST_REST, _LAST_REST = 1.0, 30.0  # seconds for which a failed endpoint is tried after the others
_CHECK_EVERY = 2.0  # seconds between two checks of an endpoint's head
_BUSY = (-32005, 429)  # codes of JSON-RPC errors that mean: too many requests
_Request = tuple[RPCEndpoint, Any]  # method and parameters


for _name in ("web3.providers.HTTPProvider", "urllib3.connectionpool"):  # at level DEBUG they log urls
    logging.getLogger(_name).setLevel(logging.INFO)


class _Endpoint:
    """An RPC url: its connection and its state."""

    def __init__(self, url: str) -> None:
        self.host = _host(url)
        errors = (requests.ConnectionError, requests.Timeout)
        self._session = requests.Session()
        self._http = HTTPProvider(
            url,
            {"timeout": _REQUEST_TIMEOUT},
            self._session,
            exception_retry_configuration=ExceptionRetryConfiguration(errors, retries=3, backoff_factor=0.2),
        )
        self.identity: tuple[int, str] | None = None
        self.checked = -_CHECK_EVERY
        self.rests_until = 0.0
        self._rest = _FIRST_REST
        self._batches = True

    def ask(self, method: str, params: Any) -> RPCResponse:
        """Answer to a request, JSON-RPC errors included.

        Raises:
            OSError, ValueError, or another of NO_ANSWER: there is no answer.
        """
        answer = self._http.make_request(RPCEndpoint(method), params)
        _require_idle(answer)
        return answer

    def ask_together(self, asked: Sequence[_Request]) -> list[RPCResponse]:
        """Answers to several requests, in one batch if the endpoint takes that; see `ask`."""
        if len(asked) > 1 and self._batches:
            answers: Any = None
            try:
                answers = self._http.make_batch_request(list(asked))
            except (KeyError, TypeError):  # web3 sorts the answers by their ids
                raise UnfitError("malformed answers to a batch") from None
            except requests.HTTPError as error:
                if error.response is not None and error.response.status_code == requests.codes.too_many_requests:
                    raise
                singly = [self.ask(*request) for request in asked]
                self._batches = False  # what it does not take together it does take one by one
                return singly
            if isinstance(answers, list) and len(answers) == len(asked):
                for answer in answers:
                    _require_idle(answer)
                return answers
        return [self.ask(*request) for request in asked]

    def quantity(self, method: str) -> int | None:
        """The number that a request without parameters returns; None if it returns none."""
        return _quantity(self.ask(method, []).get("result"))

    def identify(self) -> tuple[int, str]:
        """(chain id, hash of block 0).

        Raises:
            ChainUnreachableError: the endpoint does not answer with both.
        """
        chain_id = self.quantity("eth_chainId")
        if chain_id is None:
            raise ChainUnreachableError(f"the RPC at {self.host} does not tell its chain id")
        genesis = self.ask("eth_getBlockByNumber", ["0x0", False]).get("result")
        if not isinstance(genesis, dict) or not isinstance(genesis.get("hash"), str):
            raise ChainUnreachableError(f"the RPC at {self.host} does not tell its first block")
        return chain_id, genesis["hash"]

    def failed(self) -> None:
        """Rest after a failure, longer each time."""
        self.rests_until = monotonic() + self._rest
        self.checked = -_CHECK_EVERY
        self._rest = min(2 * self._rest, _LAST_REST)

    def answered(self) -> None:
        """End the rest."""
        self.rests_until, self._rest = 0.0, _FIRST_REST

    def close(self) -> None:
        self._session.close()


class Pool(JSONBaseProvider):
    """Endpoints of one chain, used as a single provider.

    Requests go to the first usable endpoint; transactions go to all. An endpoint is usable if it serves the chain with
    the right id and first block, and if its head is not behind the highest head that any endpoint has shown: reads
    never step back in time.
    """

    def __init__(self, endpoints: Sequence[_Endpoint], chain_id: int) -> None:
        """Join endpoints.

        Args:
            endpoints: at least one, the preferred one first.
            chain_id: id that they must serve; 0 for that of the first that answers.

        Raises:
            ChainUnreachableError: none answers.
            WrongChainError: one serves another chain.
        """
        super().__init__()
        self._endpoints = endpoints
        self._highest = 0
        self._identity: tuple[int, str] | None = None
        failures: list[BaseException] = []
        for endpoint in endpoints:
            try:
                self._verify(endpoint, chain_id)
            except NO_ANSWER as error:
                endpoint.failed()
                failures.append(ChainUnreachableError(f"no answer from the RPC at {endpoint.host} ({kind_of(error)})"))
            except ChainUnreachableError as error:
                endpoint.failed()
                failures.append(error)
        if self._identity is None:
            raise failures[0] from None
        self.chain_id: int = self._identity[0]

    def _verify(self, endpoint: _Endpoint, chain_id: int = 0) -> None:
        """Ask once which chain an endpoint serves, and refuse any other than the pool's."""
        if endpoint.identity is None:
            endpoint.identity = endpoint.identify()
        served = endpoint.identity[0]
        if chain_id not in (0, served):
            raise WrongChainError(f"the RPC at {endpoint.host} serves chain id {served}, chain.chain_id is {chain_id}")
        self._identity = self._identity or endpoint.identity
        if endpoint.identity != self._identity:
            raise WrongChainError(f"the RPC at {endpoint.host} serves another chain than the others of chain.url")

    def _check(self, endpoint: _Endpoint) -> None:
        """Refuse an endpoint whose head is behind."""
        self._verify(endpoint)
        if monotonic() - endpoint.checked < _CHECK_EVERY:
            return
        head = endpoint.quantity("eth_blockNumber")
        if head is None or head < self._highest:
            raise UnfitError(f"its head {head} is behind block {self._highest}")
        self._highest = head
        endpoint.checked = monotonic()

    def _in_order(self) -> Iterator[_Endpoint]:
        now = monotonic()
        awake = [endpoint for endpoint in self._endpoints if endpoint.rests_until <= now]
        yield from awake
        resting = (endpoint for endpoint in self._endpoints if endpoint not in awake)
        yield from sorted(resting, key=lambda endpoint: endpoint.rests_until)

    def _with(self, endpoint: _Endpoint, requests: Sequence[_Request]) -> list[RPCResponse]:
        try:
            self._check(endpoint)
            answers = endpoint.ask_together(requests)
        except (*NO_ANSWER, ChainUnreachableError):
            endpoint.failed()
            raise
        endpoint.answered()
        return answers

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """See JSONBaseProvider; raises the first endpoint's error if none is usable."""
        return self.make_batch_request([(method, params)])[0]

    def make_batch_request(self, requests: list[_Request]) -> list[RPCResponse]:
        """Answers to requests of one method; raises the first endpoint's error if none is usable."""
        everywhere = requests[0][0] == "eth_sendRawTransaction"
        answers: list[list[RPCResponse]] = []
        failures: list[Exception] = []
        for endpoint in self._in_order():
            try:
                answers.append(self._with(endpoint, requests))
            except (*NO_ANSWER, ChainUnreachableError, WrongChainError) as error:
                failures.append(error)
            if answers and not everywhere:
                break
        if not answers:
            raise failures[0]
        best = [
            next((candidate for candidate in candidates if "error" not in candidate), candidates[0])
            for candidates in zip(*answers, strict=True)
        ]
        for answer in best:
            self._note(answer)
        return best

    def _note(self, answer: RPCResponse) -> None:
        """Raise the highest head to the block that a receipt or a transaction names."""
        result = cast(Any, answer.get("result"))
        number = _quantity(result.get("blockNumber")) if isinstance(result, dict) else None
        if number is not None:
            self._highest = max(self._highest, number)

    def is_connected(self, show_traceback: bool = False) -> bool:
        """Whether any endpoint works."""
        return any(endpoint.rests_until == 0.0 for endpoint in self._endpoints)

    def close(self) -> None:
        """Close the connections."""
        for endpoint in self._endpoints:
            endpoint.close()


class RpcNode(HttpNode):
    """An existing chain at a url, or at several."""

    backend = "rpc"
    remote = True

    def __init__(self, urls: str | Sequence[str], chain_id: int = 0) -> None:
        """Connect.

        Args:
            urls: http(s) endpoints, the preferred one first; only their hosts are ever shown.
            chain_id: id that they must serve; 0 for any.

        Raises:
            ChainUnreachableError: no answer.
            WrongChainError: one of them serves another chain.
        """
        endpoints = [_Endpoint(url) for url in ([urls] if isinstance(urls, str) else urls)]
        self._pool = Pool(endpoints, chain_id)
        web3 = Web3(self._pool)
        web3.middleware_onion.remove("validation")  # it asks for the chain id twice with every call
        web3.middleware_onion.inject(
            ExtraDataToPOAMiddleware, layer=0
        )  # long extraData, as proof-of-authority chains have
        hosts = ", ".join(endpoint.host for endpoint in endpoints)
        super().__init__(web3, f"the RPC at {hosts}")
        self.chain_id = self._pool.chain_id

    def send(self, raw: bytes, epoch: int) -> bytes:
        """See `ChainNode.send`; the chain has its own clock."""
        return self._send_raw(raw, parse(raw))

    def send_in_groups(self, raws: Sequence[bytes], epoch: int) -> Iterator[list[bytes]]:
        """See `ChainNode.send_in_groups`: a batch at a time."""
        for first in range(0, len(raws), self.batch_size):
            group, sent = raws[first : first + self.batch_size], list[bytes]()
            answers = self._batch("eth_sendRawTransaction", [("0x" + raw.hex(),) for raw in group])
            try:
                for raw, answer in zip(group, answers, strict=True):
                    sent.append(self.send(raw, epoch) if "error" in answer else keccak(raw))
            except ChainError:
                if sent:
                    yield sent
                raise
            yield sent

    def fees(self) -> tuple[int, int]:
        """Twice the base fee plus a tip; the tip that the node proposes, but no more than the base fee."""
        with self._reach():
            base = int(self._web3.eth.get_block("latest").get("baseFeePerGas", 0))
        proposed = _quantity(self._request("eth_maxPriorityFeePerGas", [])) or 0
        tip = max(MIN_TIP, min(proposed, base))
        return 2 * base + tip, tip

    def mine(self) -> bool:
        """See `ChainNode.mine`; anvil and its like know the method, others refuse it."""
        try:
            return self._request("evm_mine", []) is not None
        except ChainError:
            return False

    def settled_head(self, tag: Literal["safe", "finalized"]) -> int:
        """See `ChainNode.settled_head`; -1 where the chain has no such tag."""
        block = self._request("eth_getBlockByNumber", [tag, False])
        number = _quantity(block.get("number")) if isinstance(block, dict) else None
        return -1 if number is None else number

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ChainUnreachableError("chain.url is no http or https address")
    return parts.hostname


def _require_idle(answer: RPCResponse) -> None:
    error = answer.get("error")
    if isinstance(error, dict) and error.get("code") in _BUSY:
        raise UnfitError("too many requests")


def _quantity(result: object) -> int | None:
    try:
        return int(result, 16) if isinstance(result, str) else None
    except ValueError:
        return None
