"""Gas of whole transactions on an anvil, from their receipts: settlements, claims, and two designs without a committee.

All contracts are the deployed ones: the committee is drawn on chain, the seed chain and the budget are checked, the
distributor commits. Everything is measured in the steady state, from the third epoch on, when all words are written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from benchmarks import contest, delegation, usage
from benchmarks.baselines import compile_contracts
from benchmarks.common import environment, step, store
from flock_ray.chain import transactions
from flock_ray.chain.abi import Contract, contract
from flock_ray.chain.anvil import find_anvil
from flock_ray.chain.eip712 import Domain, report_digest, report_hash
from flock_ray.chain.embedded import GENESIS_TIME, AnvilNode
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.keys import Signer, compact, run_signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.values import TOKEN, Addresses, TaskTerms, TxContext, TxReceipt
from flock_ray.protocol.capture import CaptureRisk, capture_risk
from flock_ray.protocol.hashing import keccak, tagged
from flock_ray.protocol.roles import draw_seats, quorum
from flock_ray.protocol.seed import fixed_genesis

ACCOUNTS = 40  # accounts on chain; together they hold a slot for each member of the tree
SEATS = 10
RELAYED = 100
EPOCHS = 24
STEADY = 3  # first epoch that counts
ASSUMED_MALICIOUS = 0.2
CAPTURE_LIMIT = 1e-3
POOL_MEMBERS = 200  # of the task whose operator has delegators
_MIN_STAKE = 3 * TOKEN
TX_GAS = 16_000_000  # of the largest transaction; the chain's own limit is 2^24
WHAT = (
    "gasUsed of receipts on anvil (hardfork osaka, transaction gas limit on). members is the number of leaves of the"
    f" rewards tree and of slots that the committee is drawn from; {ACCOUNTS} accounts own these slots and sign, the"
    " other leaves are addresses that never joined. Settlement gas is the mean of the steady epochs with the first"
    " seats signing, which a relayer with all signatures chooses; it differs by the zeros in the calldata and by what"
    " the draw meets. max is the most of these epochs, last_seats an epoch that the last seats signed. Claims are of"
    " accounts that were paid before; relayed is one multiproof, divided by its claims. per_transaction is contribute"
    " + vote + claim of one member and epoch, push_transfers one transfer in the operator's loop. "
    + f"{delegation.WHAT} {contest.WHAT} {usage.WHAT}"
)
TARGETS = {
    "settle_gas_7of10": 120_000,
    "settle_gas_7of10_max": 120_000,
    "settle_gas_7of10_last_seats": 120_000,
    "gas_per_member_1000": 120,
    "gas_per_member_10000": 12,
    "self_claim_gas_1000": 62_000,
    "relayed_claim_gas_100": 24_000,
    "delegator_stake_gas": 66_000,
    "delegator_claim_gas": 50_000,
    "distribute_gas": 48_000,
    "slash_gas": 30_000,
}


class Chain:
    """An anvil with the deployed contracts; each method sends one transaction or a few, as their senders would."""

    def __init__(self, folder: Path) -> None:
        self.creator, self.relayer = run_signer(0, "creator"), run_signer(0, "relayer")
        self.members = [run_signer(0, f"member-{i}") for i in range(ACCOUNTS)]
        self.nodes = contest.signers()
        everybody = [self.creator, self.relayer, *self.members, *self.nodes]
        self.node = AnvilNode(folder, [signer.address for signer in everybody])
        self.addresses = Addresses()
        self.supply = 100_000_000 * TOKEN
        raws, self.addresses = transactions.deploy(
            self.creator, self.context(self.creator), self.supply, GENESIS_TIME - 1
        )
        self.deployment = [self.send(raw).gas_used for raw in raws]
        self.domain = Domain(self.node.chain_id, self.addresses.settlement, self.addresses.distributor)

    def context(self, signer: Signer) -> TxContext:
        """What `signer` must know; everybody has tokens enough."""
        max_fee, tip = self.node.fees()
        nonce, balance = self.node.nonce(signer.address), self.node.balance(signer.address)
        places, free = self.addresses, 0
        if places.vault:
            (free,) = self.read("StakeVault", places.vault, "lockable", signer.address, self.creator.address)
        return TxContext(
            self.node.chain_id, nonce, max_fee, tip, balance, self.supply,
            places.token, places.task, places.settlement, places.distributor, places.vault, free,
        )  # fmt: skip

    def send(self, raw: bytes, epoch: int = 0) -> TxReceipt:
        """Mine a transaction; it must succeed."""
        return self.node.wait([self.node.send(raw, epoch)], 30)

    def call(self, signer: Signer, to: str, data: bytes) -> TxReceipt:
        """Mine a transaction that calls a contract, or a deployment if `to` is empty."""
        max_fee, tip = self.node.fees()
        fields = {
            "type": 2, "chainId": self.node.chain_id, "nonce": self.node.nonce(signer.address), "gas": TX_GAS, "to": to,
            "maxFeePerGas": max_fee, "maxPriorityFeePerGas": tip, "value": 0, "data": data,
        }  # fmt: skip
        return self.send(signer.sign_transaction(fields))

    def move_to(self, epoch: int) -> None:
        """Move the clock on to an epoch's time."""
        for raw in transactions.transfer(self.creator, self.context(self.creator), [(self.creator.address, 1)]):
            self.send(raw, epoch)

    def close(self) -> None:
        """End the process."""
        self.node.close()

    def read(self, name: str, address: str, function: str, *args: object) -> Any:
        """A contract's answer."""
        compiled = contract(name)
        answer = self.node.call(address, compiled.encode(function, *args), self.creator.address)
        return compiled.decode(function, answer)

    def trace(self, tx_hash: bytes) -> dict[str, Any]:
        """A transaction's tree of calls with the gas of each."""
        found = self.node._request("debug_traceTransaction", ["0x" + tx_hash.hex(), {"tracer": "callTracer"}])
        return dict(found)


@dataclass
class Task:
    """A running task, with a tree of `num_members` rewarded accounts and as many slots.

    Attributes:
        expected: digest of creator and terms.
        earned: address -> wei since the start.
        settlements: (receipt, report, seats, signatures) of each epoch.
    """

    chain: Chain
    name: bytes
    expected: bytes
    num_voters: int
    owners: list[Signer]
    earned: dict[str, int]
    settlements: list[tuple[TxReceipt, Report, int, bytes]]

    @classmethod
    def create(cls, chain: Chain, num_members: int, num_voters: int, node_stake: int = 0) -> Task:
        """A task whose members' slots are shared out among the accounts on chain; with `node_stake` a contest."""
        slots, seed = num_members // ACCOUNTS, fixed_genesis(num_members)
        terms = TaskTerms(
            terms_hash=keccak(b"terms"), model_hash=keccak(b"model"), target_set_hash=bytes(32),
            pool=EPOCHS * 100_000 * TOKEN, min_stake=_MIN_STAKE, max_slots=slots, num_voters=num_voters,
            num_proposers=10, min_members=ACCOUNTS, max_members=ACCOUNTS, num_epochs=EPOCHS, max_unsettled=2,
            max_skips=3, end_share_bps=0, epoch_deadline=3_600, join_window=10**6, fixed_genesis=True,
        )  # fmt: skip
        creator, stake = chain.creator, terms.min_stake * slots
        name = terms.task_id(creator.address, seed, node_stake)
        expected = terms.digest(creator.address, node_stake)
        raws = transactions.create_task(creator, chain.context(creator), terms, seed, node_stake)
        for raw in raws:
            chain.send(raw)
        for raw in transactions.transfer(creator, chain.context(creator), [(m.address, stake) for m in chain.members]):
            chain.send(raw)
        for member in chain.members:
            for raw in transactions.join(member, chain.context(member), name, stake, keccak(b"tip"), expected, slots):
                chain.send(raw)
        for raw in transactions.start(creator, chain.context(creator), name):
            chain.send(raw)
        accounts = [member.address for member in chain.members]
        accounts += [rewarded_address(number) for number in range(num_members - ACCOUNTS)]
        owners = [member for member in chain.members for _ in range(slots)]
        return cls(chain, name, expected, num_voters, owners, dict.fromkeys(accounts, 0), [])

    @property
    def quorum(self) -> int:
        """Bitmap of the first seats that are enough."""
        return first(quorum(self.num_voters))

    @property
    def stake(self) -> int:
        """Of each account that joined, wei."""
        return _MIN_STAKE * len(self.owners) // ACCOUNTS

    def settle(self, seats: int, slashes: tuple[ReportedSlash, ...] = ()) -> int:
        """Everybody earns something; an epoch is settled with the signatures of `seats`. Returns the gas."""
        random, chain = Random(len(self.settlements)), self.chain
        for account in self.earned:
            self.earned[account] += random.randrange(TOKEN)
        ((seed, last_report, (last_settled, *_)),) = chain.read(
            "EpochSettlement", chain.addresses.settlement, "headOf", self.name
        )
        epoch = last_settled + 1
        report = Report(
            self.name, epoch, last_report, seed, tagged("reveals", epoch), self.tree().root, sum(self.earned.values()),
            slashes, tagged("model", epoch), tagged("record", epoch), chain.relayer.address,
        )  # fmt: skip
        digest = report_digest(chain.domain, report)
        slots = draw_seats(seed, self.name, epoch, len(self.owners), self.num_voters)
        signers = [self.owners[slot] for seat, slot in enumerate(slots) if seats >> seat & 1]
        signatures = b"".join(compact(signer.sign_digest(digest)) for signer in signers)
        raw = transactions.settle(chain.relayer, chain.context(chain.relayer), report, seats, signatures)
        receipt = chain.send(raw, epoch)
        head = chain.read("EpochSettlement", chain.addresses.settlement, "headOf", self.name)[0]
        assert head[1] == report_hash(report)
        self.settlements.append((receipt, report, seats, signatures))
        return receipt.gas_used

    def leaf(self, account: str) -> bytes:
        """An account's leaf."""
        return reward_leaf(self.chain.domain, self.name, account, self.earned[account])

    def tree(self) -> MerkleTree:
        """One leaf a member."""
        return MerkleTree(map(self.leaf, self.earned))

    def claim(self, signer: Signer) -> int:
        """Gas of an account's own claim."""
        tree, account, chain = self.tree(), signer.address, self.chain
        proof, amount = tree.proof(self.leaf(account)), self.earned[account]
        (raw,) = transactions.claim(signer, chain.context(signer), self.name, account, amount, proof)
        return chain.send(raw).gas_used

    def claim_to_pool(self, account: str) -> TxReceipt:
        """The relayer has an operator's rewards paid into its pool."""
        tree, chain, amount = self.tree(), self.chain, self.earned[account]
        proof, context = tree.proof(self.leaf(account)), chain.context(chain.relayer)
        (raw,) = transactions.claim(chain.relayer, context, self.name, account, amount, proof, to_pool=True)
        return chain.send(raw)

    def claim_many(self, accounts: Sequence[str]) -> int:
        """Gas of a relayer's claim for `accounts` with one multiproof."""
        by_leaf = {self.leaf(account): account for account in accounts}
        leaves, proof, flags = self.tree().multiproof(by_leaf)
        ordered = [by_leaf[leaf] for leaf in leaves]
        amounts = [self.earned[account] for account in ordered]
        data = contract("RewardDistributor").encode("claimMany", self.name, ordered, amounts, proof, flags)
        return self.chain.call(self.chain.relayer, self.chain.addresses.distributor, data).gas_used


def rewarded_address(number: int) -> str:
    """An address that nobody has the key of."""
    return Signer.derive(tagged("rewarded", number)).address


def first(count: int) -> int:
    """Bitmap of the first seats: what a relayer sends who has all signatures."""
    return (1 << count) - 1


def settlements(task: Task, epochs: int) -> dict[str, Any]:
    """Gas of the steady epochs: with the cheapest seats (the first), and with the dearest (the last) in one epoch."""
    q = quorum(task.num_voters)
    gas = [task.settle(first(q)) for _ in range(epochs)]
    steady = gas[STEADY - 1 :]
    last = task.settle(first(q) << task.num_voters - q)
    return {
        "members": len(task.earned),
        "slots": len(task.owners),
        "voters": task.num_voters,
        "signatures": q,
        "gas_by_epoch": gas,
        "first_seats_max": max(steady),
        "first_seats_mean": fmean(steady),
        "last_seats": last,
        "parts": parts(task, epochs - 1),
    }


def parts(task: Task, index: int) -> dict[str, int]:
    """What a settlement's gas was spent on; the calls as traced, the others by the protocol's prices, and the rest."""
    receipt, report, seats, signatures = task.settlements[index]
    data = transactions.settle_call(report, seats, signatures)
    calldata = sum(4 if byte == 0 else 16 for byte in data)
    signed = seats.bit_count()
    calls = {"owners_of_the_seats": 0, "distributor": 0}
    for call in task.chain.trace(receipt.hash).get("calls", []):
        to, gas = call["to"].lower(), int(call["gasUsed"], 16)
        if to == task.chain.addresses.task.lower():
            calls["owners_of_the_seats"] += gas
        elif to == task.chain.addresses.distributor.lower():
            calls["distributor"] += gas
    known = {"intrinsic": 21_000, "calldata": calldata, "signature_recovery": 3_000 * signed, **calls}
    return {**known, "draw_order_storage_and_event": receipt.gas_used - sum(known.values()), "total": receipt.gas_used}


def smallest_committee(num_slots: int) -> CaptureRisk:
    """The fewest voters that pass the project's capture check."""
    malicious = int(ASSUMED_MALICIOUS * num_slots)
    risks = (capture_risk(num_slots, malicious, voters) for voters in range(1, num_slots))
    return next(risk for risk in risks if max(risk.median, risk.quorum) <= CAPTURE_LIMIT)


def claims(task: Task) -> dict[str, Any]:
    """Claims of accounts that were paid in an earlier epoch already; an epoch passes between the two rounds."""
    signer = task.chain.members[0]
    others = [account for account in task.earned if account != signer.address]
    relayed = Random(0).sample(others, min(RELAYED, len(others)))
    rounds = []
    for _ in range(2):
        task.settle(first(quorum(task.num_voters)))
        rounds.append({"self": task.claim(signer), "relayed": task.claim_many(relayed)})
    return {
        "leaves": len(task.earned),
        "relayed_claims": len(relayed),
        "first_time": rounds[0],
        "steady": rounds[1],
        "relayed_each": rounds[1]["relayed"] / len(relayed),
    }


def per_transaction(chain: Chain, compiled: Contract) -> dict[str, Any]:
    """Every member sends its contribution, its vote and its claim each epoch, and nothing is checked but the order."""
    address = deploy(chain, compiled, chain.addresses.token, TOKEN)
    fund(chain, address, 10_000 * TOKEN)
    members = chain.members[:5]
    for member in members:
        chain.call(member, address, compiled.encode("join"))
    gas: dict[str, int] = {}
    for epoch in range(1, STEADY + 1):
        gas = dict.fromkeys(("contribute", "vote", "claim"), 0)
        for member in members:
            data = compiled.encode("contribute", tagged("update", epoch))
            gas["contribute"] += chain.call(member, address, data).gas_used
        for member, candidate in zip(members, [*members[1:], members[0]], strict=True):
            data = compiled.encode("vote", candidate.address, 80 + epoch)
            gas["vote"] += chain.call(member, address, data).gas_used
        for member in members:
            gas["claim"] += chain.call(member, address, compiled.encode("claim")).gas_used
        chain.call(chain.creator, address, compiled.encode("next"))
    each = {step: total / len(members) for step, total in gas.items()}
    return {**each, "per_member": sum(each.values())}


def push_transfers(chain: Chain, compiled: Contract, accounts: Sequence[str]) -> dict[str, Any]:
    """The operator pays everybody in a loop: `accounts` hold tokens already; one transaction as long as it fits."""
    address = deploy(chain, compiled, chain.addresses.token)
    fund(chain, address, 10_000 * TOKEN)
    random = Random(0)
    for _ in range(2):
        amounts = [random.randrange(TOKEN) for _ in accounts]
        halves = [slice(0, len(accounts) // 2), slice(len(accounts) // 2, None)]
        calls = [compiled.encode("pay", accounts[half], amounts[half]) for half in halves]
        gas = sum(chain.call(chain.creator, address, data).gas_used for data in calls)
    return {"accounts": len(accounts), "transactions": len(halves), "gas": gas, "per_member": gas / len(accounts)}


def deploy(chain: Chain, compiled: Contract, *args: object) -> str:
    """Address of a baseline contract."""
    made = chain.call(chain.creator, "", compiled.constructor(*args)).contract_address
    assert made is not None
    return made


def fund(chain: Chain, address: str, amount: int) -> None:
    """Give a baseline contract what it pays out."""
    for raw in transactions.transfer(chain.creator, chain.context(chain.creator), [(address, amount)]):
        chain.send(raw)


def headline(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures that count; those that a quick run leaves out are not in it."""
    settled = result["settlements"]
    figures = {
        "settle_gas_7of10": settled["1000"]["first_seats_mean"],
        "settle_gas_7of10_max": settled["1000"]["first_seats_max"],
        "settle_gas_7of10_last_seats": settled["1000"]["last_seats"],
        "gas_per_member_1000": settled["1000"]["first_seats_mean"] / 1_000,
    }
    if "10000" in settled:
        figures["gas_per_member_10000"] = settled["10000"]["first_seats_mean"] / 10_000
    if "secure_1000" in settled:
        figures["settle_gas_secure_committee_1000"] = settled["secure_1000"]["first_seats_mean"]
    return {
        **figures,
        "self_claim_gas_1000": result["claims"]["steady"]["self"],
        "relayed_claim_gas_100": result["claims"]["relayed_each"],
        "delegator_stake_gas": result["delegation"]["delegate_again"],
        "delegator_claim_gas": result["delegation"]["claim"],
        "distribute_gas": result["delegation"]["distribute"],
        "slash_gas": result["delegation"]["slash"],
        "per_tx_baseline_gas": result["per_transaction"]["per_member"],
        "push_transfer_gas_per_member_1000": result["push_transfers"]["per_member"],
        **contest.headline(result["contests"]),
        **usage.headline(result["usage"]),
    }


def contests(chain: Chain, quick: bool) -> dict[str, Any]:
    """Days of contests: {number of nodes: what they came to}."""
    found = {}
    for nodes in [contest.QUICK_NODES] if quick else [contest.QUICK_NODES, contest.NODES]:
        with step(f"days of a contest with {nodes:,} nodes"):
            stake = contest.NODE_STAKE + nodes  # another contest
            task = Task.create(chain, ACCOUNTS, SEATS, stake)
            found[str(nodes)] = contest.measure(chain, task, chain.nodes[:nodes], stake)
    return found


def measure(chain: Chain, quick: bool) -> dict[str, Any]:
    """All figures; a quick run takes fewer epochs and leaves out the larger tree and the larger committee."""
    epochs = STEADY if quick else EPOCHS - 4
    with step("compiling the two designs without a committee"):
        compiled = compile_contracts("PerTransaction", "PushTransfer")
    with step("settlements and claims of 1,000 members"):
        thousand = Task.create(chain, 1_000, SEATS)
        settled = {"1000": settlements(thousand, epochs)}
        result: dict[str, Any] = {"settlements": settled, "claims": claims(thousand)}
    if not quick:
        with step("settlements of 10,000 members"):
            settled["10000"] = settlements(Task.create(chain, 10_000, SEATS), epochs)
        with step("settlements of 1,000 members with a committee that is hard to capture"):
            risk = smallest_committee(1_000)
            result["capture"] = {**asdict(risk), "limit": CAPTURE_LIMIT}
            settled["secure_1000"] = settlements(Task.create(chain, 1_000, risk.num_voters), epochs)
    with step("delegation"):
        pool = delegation.Pool(chain)
        result["delegation"] = delegation.measure(pool, Task.create(chain, POOL_MEMBERS, SEATS))
    result["contests"] = contests(chain, quick)
    with step("batches of usage"):
        result["usage"] = usage.measure(chain)
    with step("the two designs without a committee"):
        result["per_transaction"] = per_transaction(chain, compiled["PerTransaction"])
        result["push_transfers"] = push_transfers(chain, compiled["PushTransfer"], list(thousand.earned))
    return result


def show(figures: Mapping[str, float]) -> None:
    """A line for each figure, with its target and whether it is missed."""
    for name, value in figures.items():
        target = TARGETS.get(name)
        verdict = "" if target is None else f"target {target:>9,}   {'met' if value <= target else 'MISSED'}"
        print(f"{name:<36}{value:>14,.2f}   {verdict}".rstrip())


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Measure, store, show."""
    if overrides:
        raise SystemExit("error: the gas benchmark takes no overrides")
    for missing, why in ((find_anvil() is None, "no anvil binary"), (shutil.which("node") is None, "no node")):
        if missing:
            print(f"skipped: {why} (npm ci in contracts/ brings anvil; the baselines are compiled by node)")
            return
    with tempfile.TemporaryDirectory() as folder, closing(Chain(Path(folder))) as chain:
        measured = measure(chain, quick)
        deployment = chain.deployment
    result = {"environment": environment(), "what": WHAT, "deployment": deployment, **measured}
    result["headline"] = headline(result)
    result["targets"] = TARGETS
    store("gas", result, quick)
    show(result["headline"])
