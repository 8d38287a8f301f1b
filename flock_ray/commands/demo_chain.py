"""The local chain of the marketplace's demonstration: token, `UsageSettlement`, a gateway's stake, users' deposits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flock_ray.chain import transactions, usage_calls
from flock_ray.chain.calls import Call
from flock_ray.chain.client import ChainClient
from flock_ray.chain.eip712 import usage_domain
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.outbox import Outbox
from flock_ray.chain.usage import UsageSettings, deploy_usage
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.usage_settler import UsageSettler
from flock_ray.chain.values import MAX_FEE, NOBODY, SINK, TOKEN, ChainSpec, TxReceipt
from flock_ray.market.ledger import Ledger
from flock_ray.market.settlement import Settlement
from flock_ray.protocol.hashing import tag, tagged

SEED = 14  # of all keys here, which protect nothing of value
SUPPLY, STAKE, DEPOSIT = 1_000_000 * TOKEN, 100 * TOKEN, 100 * TOKEN
SETTINGS = UsageSettings(SINK, NOBODY, STAKE, activation_delay=600, response_window=600, withdrawal_delay=3_000)
_GAS = 1_000_000
_TIMEOUT = 120.0


class DemoChain:
    """The chain inside this process, with all that the demonstration needs on it.

    Attributes:
        gateway: account that serves; receipts: key that signs receipts; users: who ask.
        domain: what receipts and caps are signed for.
    """

    def __init__(self, folder: Path, users: int) -> None:
        """Deploy, stake, deposit."""
        self.gateway, self.receipts = Signer(_secret("gateway")), Signer(_secret("receipts"))
        self.users = [run_signer(SEED, f"user-{number}") for number in range(users)]
        self._creator, self._epoch = run_signer(SEED, "creator"), 0
        accounts = [self._creator, self.gateway, *self.users]
        funded = [signer.address for signer in accounts]
        spec = ChainSpec("eth_tester", (), 0, "", 0, SEED, funded, "", "", "", _TIMEOUT)
        self._client = ChainClient(spec, str(folder))
        context = self._client.context(self._creator.address)
        raws, addresses = transactions.deploy(self._creator, context, SUPPLY, self._client.timestamp())
        self._client.broadcast(raws, 0)
        self._client.set_contracts(addresses)
        context = self._client.context(self._creator.address)
        raw, at = deploy_usage(self._creator, context, addresses.token, SETTINGS)
        self._client.broadcast([raw], 0)
        self.domain = usage_domain(context.chain_id, at)
        context = self._client.context(self._creator.address)
        grants = [(signer.address, 2 * DEPOSIT) for signer in accounts[1:]]
        self._client.broadcast(transactions.transfer(self._creator, context, grants), 0)
        for signer in accounts[1:]:
            self._send(signer, Call("FlockToken", addresses.token, "approve", (at, SUPPLY)))
        self._send(self.gateway, usage_calls.stake(at, STAKE))
        self._send(self.gateway, usage_calls.set_receipt_key(at, self.receipts.address, True))
        for user in self.users:
            self._send(user, usage_calls.deposit(at, self.gateway.address, user.address, DEPOSIT))
        self._settler = UsageSettler(
            self._client.node, self.gateway, Outbox(folder / "outbox.sqlite"), _TIMEOUT, MAX_FEE
        )  # fmt: skip

    @staticmethod
    def environment() -> dict[str, str]:
        """Variables by which the gateway's process finds its keys."""
        return {f"FLOCK_RAY_{name.upper()}_KEY": _secret(name).hex() for name in ("gateway", "receipts")}

    def settlement(self, ledger: Ledger, folder: Path) -> Settlement:
        """The gateway's settling side."""
        reader = UsageReader(self._client.node, self.domain.contract, self.gateway.address)
        return Settlement(ledger, reader, self._settler, self.send, self.gateway, folder)

    def _send(self, signer: Signer, call: Call) -> TxReceipt:
        context = self._client.context(signer.address)
        raw = transactions.call(signer, context, call.to, call.data, call.gas or _GAS)
        return self._client.broadcast([raw], self._epoch)[0]

    def send(self, calls: Sequence[Call]) -> list[TxReceipt]:
        """Calls that are open to everybody."""
        return [self._send(self._creator, call) for call in calls]

    def pass_time(self) -> int:
        """Let the activation delay of a batch pass; returns the chain's time."""
        self._epoch += 2
        context = self._client.context(self._creator.address)
        self._client.broadcast(transactions.transfer(self._creator, context, [(self.gateway.address, 1)]), self._epoch)
        return self._client.timestamp()

    def close(self) -> None:
        """End the chain."""
        self._settler.close()
        self._client.close()


def _secret(name: str) -> bytes:
    return tagged("flock_ray/market-demo/1", SEED, tag(name))
