"""What an operator's delegators pay, and what payments into its pool and slashes cost, on the deployed contracts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flock_ray.chain import transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.embedded import SECONDS_PER_EPOCH
from flock_ray.chain.epoch_report import ReportedSlash
from flock_ray.chain.keys import Signer
from flock_ray.chain.values import COMMISSION_DELAY, TOKEN, VAULT_EPOCH, TxReceipt

if TYPE_CHECKING:
    from benchmarks.gas import Chain, Task

OWN = 5 * TOKEN  # the operator's; the rest of what it joins with is its delegators'
ROUNDS = 3  # the last one counts
_DAY = VAULT_EPOCH // SECONDS_PER_EPOCH
_COLD = 2_600  # of the first access to an address
WHAT = (
    "delegation: an operator with three delegators in a task of its own. delegate_again is a further delegation after a"
    " payment, in a vault epoch in which another came before; delegate_first_of_epoch is that other one,"
    " delegate_unpaid one more without a payment since,"
    " delegate_after_unclaimed_epoch also takes up that the last one has begun to earn, delegate_in_the_next_epoch"
    " keeps apart what came in during two epochs in a row. The vault is approved for all."
    " distribute is the token transfer and vault.distribute inside claim_to_pool, as traced, with the first access to"
    " both addresses, when all stake earns; distribute_with_newcomers notes up to where;"
    " claim_to_pool is the whole transaction, proof included, which takes the place of a self claim."
    " slash is what one more slash, of another member, adds to a settlement that slashes already; slash_first is what"
    " the first one adds, the payments to escrow and relayer included; slash_delegators is a first one that takes all"
    " of an operator's own stake, half of its delegators', and its seats. None of these three holds a transaction's"
    " 21,000."
)


class Pool:
    """The operator, its delegators, and what they send."""

    def __init__(self, chain: Chain) -> None:
        """Delegate for the first time; the operator must join its task afterwards."""
        self._chain, self._day = chain, 0
        self.operator, self.delegators = chain.members[0], chain.members[1:4]
        grants = [(account.address, 1_000 * TOKEN) for account in (self.operator, *self.delegators)]
        for raw in transactions.transfer(chain.creator, chain.context(chain.creator), grants):
            chain.send(raw)
        self._call(self.operator, "setAcceptance", True)
        self.approve()
        self._call(self.operator, "stake", OWN)
        self._call(self.operator, "addCreator", chain.creator.address)
        for account in self.delegators:
            self.delegate(account)
        for _ in range(COMMISSION_DELAY + 1):  # from then on the pool may serve the creator's tasks
            self.next_epoch()

    def approve(self) -> None:
        """Let the vault take what delegators delegate; joining a task sets another approval."""
        approval = contract("FlockToken").encode("approve", self._chain.addresses.vault, 2**256 - 1)
        for account in (self.operator, *self.delegators):
            self._chain.call(account, self._chain.addresses.token, approval)

    def _call(self, signer: Signer, function: str, *args: object) -> int:
        data = contract("StakeVault").encode(function, *args)
        return self._chain.call(signer, self._chain.addresses.vault, data).gas_used

    def delegate(self, account: Signer) -> int:
        """Gas of a delegation."""
        return self._call(account, "delegate", self.operator.address, 10 * TOKEN)

    def claim(self, account: Signer) -> int:
        """Gas of a delegator's claim."""
        return self._call(account, "claim", self.operator.address)

    def next_epoch(self) -> None:
        """Go on to the next epoch of the vault."""
        self._day += 1
        self._chain.move_to(self._day * _DAY)

    def pay(self, task: Task) -> TxReceipt:
        """Settle an epoch, and have the operator's rewards paid into its pool."""
        task.settle(task.quorum)
        return task.claim_to_pool(self.operator.address)


def measure(pool: Pool, task: Task) -> dict[str, Any]:
    """Gas of everything, by name."""
    one, other, third = pool.delegators
    gas: dict[str, Any] = {}
    pool.approve()
    for _ in range(ROUNDS):
        for _ in range(2):  # what came in before earns
            pool.next_epoch()
        paid = pool.pay(task)
        for account in (one, other):
            pool.claim(account)
        pool.pay(task)
        gas["claim"] = pool.claim(one)
        pool.pay(task)
        gas["delegate_first_of_epoch"] = pool.delegate(other)
        gas["delegate_again"] = pool.delegate(one)
        gas["delegate_unpaid"] = pool.delegate(one)
        gas["delegate_after_unclaimed_epoch"] = pool.delegate(third)
        gas["claim_to_pool"] = paid.gas_used
        gas["distribute"] = _distribution(task, paid)
    pool.next_epoch()
    gas["distribute_with_newcomers"] = _distribution(task, pool.pay(task))
    gas["delegate_in_the_next_epoch"] = pool.delegate(one)
    return gas | _slashes(task)


def _distribution(task: Task, paid: TxReceipt) -> int:
    places = task.chain.addresses
    calls = task.chain.trace(paid.hash)["calls"]
    inner = {call["to"].lower(): int(call["gasUsed"], 16) for call in calls}
    return inner[places.token.lower()] + inner[places.vault.lower()] + 2 * _COLD


def _slashes(task: Task) -> dict[str, Any]:
    """Settlements with 0, 1 and 3 slashes of members without delegators, twice; and one that reaches delegators."""
    stake = task.stake
    used = {}
    for _ in range(2):
        for count in (0, 1, 3):
            used[count] = task.settle(task.quorum, tuple(ReportedSlash(10 + i, stake // 10 + i) for i in range(count)))
    chain, operator = task.chain, task.chain.members[0].address
    ((own, delegated),) = chain.read("StakeVault", chain.addresses.vault, "lockOf", task.name, operator)
    delegators = task.settle(task.quorum, (ReportedSlash(0, own + delegated // 2),))
    return {
        "slash": (used[3] - used[1]) / 2,
        "slash_first": used[1] - used[0],
        "slash_delegators": delegators - used[0],
    }
