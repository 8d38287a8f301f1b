"""A gateway, users and payees on a real chain, driven as a gateway drives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flock_ray.chain import transactions, usage_calls
from flock_ray.chain.calls import Call
from flock_ray.chain.eip712 import cap_digest, receipt_digest, usage_domain
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.usage import SignedCap, SignedReceipt, UsageBatch, UsageSettings, account_text, deploy_usage
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.values import NOBODY, SINK, TxReceipt
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.price_book import LeafTable, Offer, PriceBook, Split
from flock_ray.protocol.receipt import Cap, Receipt
from flock_ray.protocol.usage import Tables
from tests.chain.world import RUN_SEED, SUPPLY, TOKEN, World, spec

SETTINGS = UsageSettings(SINK, NOBODY, 100 * TOKEN, 600, 600, 3_000)
MODEL = b"\x07" * 32
NEVER = (1 << 64) - 1
HOST, OWNER, PROTOCOL, ONE, TWO, THREE = (bytes([0xA0 + number]) * 20 for number in range(6))
WEIGHTS = {ONE: 3, TWO: 2, THREE: 2}
TABLE = LeafTable(31_337, PROTOCOL, MODEL, WEIGHTS)
GAS = 16_000_000


def account(signer: Signer) -> bytes:
    return bytes.fromhex(signer.address[2:])


class UsageWorld(World):
    """The contracts with `UsageSettlement` beside them; the creator deploys, member 0 is the gateway, others use it."""

    def __init__(self, folder: Path, backend: str = "eth_tester", settings: UsageSettings = SETTINGS) -> None:
        super().__init__(spec(backend), folder)
        self.deploy()
        token = self.client.addresses.token
        raw, self.at = deploy_usage(self.creator, self.client.context(self.creator.address), token, settings)
        (self.deployment,) = self.client.broadcast([raw], 0)
        assert self.deployment.contract_address == self.at
        self.usage = usage_domain(self.client.info().chain_id, self.at)
        self.reader = UsageReader(self.client._node, self.at, self.creator.address)
        self.gateway, *self.users = self.members
        self.key = run_signer(RUN_SEED, "receipts")
        grants = [(member.address, SUPPLY // 10) for member in self.members]
        self.do(self.creator, lambda s, c: transactions.transfer(s, c, grants))
        for member in self.members:
            self.send(member, Call("FlockToken", token, "approve", (self.at, SUPPLY)))
        self.send(self.gateway, usage_calls.stake(self.at, settings.min_stake))
        self.send(self.gateway, usage_calls.set_receipt_key(self.at, self.key.address, True))

    def send(self, signer: Signer, call: Call) -> TxReceipt:
        """Mine a call."""
        (receipt,) = self.do(signer, lambda s, c: [transactions.call(s, c, call.to, call.data, GAS)])
        return receipt

    def deposit(self, user: Signer, amount: int) -> None:
        self.send(user, usage_calls.deposit(self.at, self.gateway.address, user.address, amount))

    def activate(self) -> None:
        """Let the activation delay pass."""
        self.epoch += 2

    def wallet(self, payee: bytes) -> int:
        text = account_text(payee)
        return self.client.wallet_balances([text])[text]

    def book(self, prompt: int = 2, output: int = 6, split: Split | None = None) -> PriceBook:
        split = split or Split(2_000, 800, 2_200, 5_000)
        weights = TABLE.hash if split.members else bytes(32)
        offer = Offer(MODEL, prompt, output, split, HOST, OWNER, weights)
        return PriceBook(account(self.gateway), PROTOCOL, (offer,))

    def receipt(self, book: PriceBook, number: int, user: Signer, tokens: tuple[int, int]) -> Receipt:
        request, cost = sha256(book.hash + number.to_bytes(8, "big")), book.offer(MODEL).cost(*tokens)
        hashes = sha256(b"prompt"), sha256(b"output")
        return Receipt(book.gateway, request, account(user), MODEL, *hashes, *tokens, book.hash, cost)

    def signed(self, receipt: Receipt) -> SignedReceipt:
        return SignedReceipt(receipt, account(self.key), self.key.sign_digest(receipt_digest(self.usage, receipt)))

    def cap(self, user: Signer, book: PriceBook, cumulative: int, expiry: int = NEVER) -> SignedCap:
        cap = Cap(account(user), book.gateway, book.hash, cumulative, expiry)
        return SignedCap(cap, user.sign_digest(cap_digest(self.usage, cap)))

    def caps(self, book: PriceBook, cumulative: int = 1 << 100) -> dict[bytes, SignedCap]:
        return {account(user): self.cap(user, book, cumulative) for user in self.users}

    def batch(self, book: PriceBook, number: int, tables: Tables) -> UsageBatch:
        return UsageBatch(self.usage, book.gateway, book.hash, number, tables)

    def collect(self, batch: UsageBatch, caps: dict[bytes, SignedCap], users: Sequence[bytes]) -> None:
        for call in usage_calls.collect(batch, caps, users):
            self.send(self.creator, call)
