"""Gas of batches of usage on the deployed contract: a gateway settles, collects from its users, everybody is paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flock_ray.chain import transactions, usage_calls
from flock_ray.chain.calls import Call
from flock_ray.chain.eip712 import cap_digest, usage_domain
from flock_ray.chain.keys import Signer
from flock_ray.chain.usage import SignedCap, UsageBatch, UsageSettings, deploy_usage
from flock_ray.chain.values import NOBODY, SINK, TOKEN, TxReceipt
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.price_book import LeafTable, Offer, PriceBook, Split
from flock_ray.protocol.receipt import Cap, Receipt
from flock_ray.protocol.usage import Tables, charge

if TYPE_CHECKING:
    from benchmarks.gas import Chain

USERS, MEMBERS = 40, 8
REQUESTS = 1_000  # of a batch: 25 of each user
BATCHES = 3  # the last one counts: all words are written by then
PRICE = 10**9  # wei a token
WHAT = (
    f"usage: batches of {USERS} users with {REQUESTS:,} requests, paid to host, owner, protocol and {MEMBERS} members,"
    " in the steady state. gas_per_user is what collecting costs for each user, gas_per_1000_requests the whole batch:"
    " its settlement, the collection and all claims. A batch's gas follows its users and payees: with ten times as many"
    " requests it is the same but for zeros in the calldata."
)


def _account(address: str) -> bytes:
    return bytes.fromhex(address[2:])


class Gateway:
    """The first member as a gateway, the creator as its only depositor, all members as users."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.signer, self.users = chain, chain.members[0], chain.members[:USERS]
        self.gas: dict[str, int] = {}
        settings = UsageSettings(SINK, NOBODY, TOKEN, 0, 3_600, 7_200)
        raw, self.at = deploy_usage(chain.creator, chain.context(chain.creator), chain.addresses.token, settings)
        self.gas["deployment"] = chain.send(raw).gas_used
        self.domain = usage_domain(chain.node.chain_id, self.at)
        grant = transactions.transfer(chain.creator, chain.context(chain.creator), [(self.signer.address, TOKEN)])
        chain.send(grant[0])
        self.call(self.signer, Call("FlockToken", chain.addresses.token, "approve", (self.at, TOKEN)))
        self.call(self.signer, usage_calls.stake(self.at, TOKEN))
        self.call(chain.creator, Call("FlockToken", chain.addresses.token, "approve", (self.at, chain.supply)))
        for user in self.users:
            deposit = usage_calls.deposit(self.at, self.signer.address, user.address, 1_000 * TOKEN)
            self.gas["deposit"] = self.call(chain.creator, deposit).gas_used
        accounts = [tagged("payee", number)[:20] for number in range(MEMBERS + 3)]
        host, owner, protocol, *members = accounts
        table = LeafTable(0, bytes(20), bytes(32), {member: 1 + number for number, member in enumerate(members)})
        split = Split(2_000, 800, 2_200, 5_000)
        offer = Offer(sha256(b"model"), 2 * PRICE, 6 * PRICE, split, host, owner, table.hash)
        self.book = PriceBook(_account(self.signer.address), protocol, (offer,))
        self.weights = {table.hash: table}

    def call(self, sender: Signer, call: Call) -> TxReceipt:
        """Mine a call."""
        return self.chain.call(sender, call.to, call.data)

    def receipts(self, batch: int, count: int) -> list[Receipt]:
        """Requests of all users in turn."""
        model, hashes = self.book.offers[0].model, (sha256(b"prompt"), sha256(b"output"))
        made = []
        for number in range(count):
            tokens = 1_000 + number, 200 + batch
            user = _account(self.users[number % USERS].address)
            cost = self.book.offers[0].cost(*tokens)
            made.append(
                Receipt(self.book.gateway, tagged("request", batch, number), user, model, *hashes, *tokens,
                        self.book.hash, cost)
            )  # fmt: skip
        return made

    def caps(self) -> dict[bytes, SignedCap]:
        """Of all users, with room."""
        caps = (Cap(_account(user.address), self.book.gateway, self.book.hash, 10**24, 1 << 40) for user in self.users)
        return {
            cap.account: SignedCap(cap, user.sign_digest(cap_digest(self.domain, cap)))
            for cap, user in zip(caps, self.users, strict=True)
        }

    def settle(self, batch: UsageBatch) -> dict[str, int]:
        """Gas of a batch."""
        relayer, tables = self.chain.relayer, batch.tables
        settled = self.call(self.signer, usage_calls.settle_batch(batch)).gas_used
        collecting = usage_calls.collect(batch, self.caps(), sorted(tables.charges))
        collected = sum(self.call(relayer, call).gas_used for call in collecting)
        claims = [self.call(relayer, usage_calls.claim(batch, payee)).gas_used for payee in tables.payouts]
        total = settled + collected + sum(claims)
        return {"settle": settled, "collect": collected, "claims": sum(claims), "claim": max(claims), "total": total}


def measure(chain: Chain) -> dict[str, Any]:
    """Gas of each batch; the last one once more with ten times as many requests."""
    gateway, tables = Gateway(chain), Tables()
    batches = list[dict[str, int]]()
    sizes: Sequence[int] = [*[REQUESTS] * BATCHES, 10 * REQUESTS]
    for number, size in enumerate(sizes, start=1):
        tables = charge(tables, gateway.receipts(number, size), gateway.book, gateway.weights)
        batches.append(
            gateway.settle(UsageBatch(gateway.domain, gateway.book.gateway, gateway.book.hash, number, tables))
        )
    *_, steady, large = batches
    return {"users": USERS, "payees": len(tables.payouts), "requests": REQUESTS, **gateway.gas,
            "batches": batches, "steady": steady, "ten_times_the_requests": large}  # fmt: skip


def headline(measured: dict[str, Any]) -> dict[str, float]:
    """The figures that count."""
    steady = measured["steady"]
    return {
        "gas_per_user": steady["collect"] / measured["users"],
        "gas_per_1000_requests": steady["total"] * 1_000 / measured["requests"],
        "usage_settle_gas": steady["settle"],
        "usage_claim_gas": steady["claim"],
        "usage_deposit_gas": measured["deposit"],
    }
