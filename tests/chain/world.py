"""A task with members on a real chain, driven as the alliance drives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flock_ray.chain import transactions
from flock_ray.chain.client import ChainClient
from flock_ray.chain.eip712 import Domain, report_digest, report_hash
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.keys import Signer, compact, run_signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.values import ChainSpec, TaskTerms, TxContext, TxReceipt
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.roles import draw_seats
from flock_ray.protocol.seed import fixed_genesis
from tests.waiting import PATIENCE

TOKEN = 10**18
RUN_SEED = 5
SUPPLY = 100_000 * TOKEN


def spec(
    backend: str, *, url: str = "", chain_id: int = 0, port: int = 0, num_members: int = 5, timeout: float = PATIENCE
) -> ChainSpec:
    funded = [run_signer(RUN_SEED, name).address for name in ["creator", *(f"member-{i}" for i in range(num_members))]]
    return ChainSpec(backend, (url,) if url else (), chain_id, "", port, RUN_SEED, funded, "", "", "", timeout)


class World:
    """Creator, members and a client; every transaction goes through `do`, which checks the gas limits' margin."""

    def __init__(self, chain_spec: ChainSpec, run_dir: Path, num_members: int = 5) -> None:
        self.spec = chain_spec
        self.client = ChainClient(chain_spec, str(run_dir))
        self.creator = run_signer(RUN_SEED, "creator")
        self.members = [run_signer(RUN_SEED, f"member-{i}") for i in range(num_members)]
        self.epoch = 0
        self.task = b""
        self.earned: dict[str, int] = {}

    def do(self, signer: Signer, make: Callable[[Signer, TxContext], list[bytes]]) -> list[TxReceipt]:
        return self.client.broadcast(make(signer, self.client.context(signer.address)), self.epoch)

    def deploy(self) -> None:
        context = self.client.context(self.creator.address)
        raws, addresses = transactions.deploy(self.creator, context, SUPPLY, self.client.timestamp())
        receipts = self.client.broadcast(raws, 0)
        created = [receipt.contract_address for receipt in receipts]
        assert [created[0], *created[2:]] == [
            addresses.token, addresses.task, addresses.distributor, addresses.settlement, addresses.vault, None
        ]  # fmt: skip
        self.client.set_contracts(addresses)
        info = self.client.info()
        assert (info.distributor, info.vault) == (addresses.distributor, addresses.vault)
        self.domain = Domain(info.chain_id, info.settlement, info.distributor)

    def create(self, slots: Sequence[int] | None = None, node_stake: int = 0, **changes: object) -> bytes:
        """A running task whose first members have so many slots each; by default all, with as many as they may.

        With `node_stake` it is a contest, which nodes may enter.

        It becomes `task`, unless there is one; returns its id.
        """
        defaults: dict[str, object] = {
            "terms_hash": keccak(b"terms"), "model_hash": keccak(b"model"), "target_set_hash": bytes(32),
            "pool": 1_000 * TOKEN, "min_stake": 3_000 * TOKEN, "max_slots": 1, "num_voters": 4, "num_proposers": 1,
            "min_members": len(self.members), "max_members": len(self.members), "num_epochs": 2, "max_unsettled": 2,
            "max_skips": 3, "end_share_bps": 0, "epoch_deadline": 3_600,
            "join_window": 1_000, "fixed_genesis": True,
        }  # fmt: skip
        terms = TaskTerms(**{**defaults, **changes})  # type: ignore[arg-type]
        slots = [terms.max_slots] * len(self.members) if slots is None else slots
        stakes = [terms.min_stake * count for count in slots]
        grants = [(member.address, stake) for member, stake in zip(self.members, stakes, strict=False)]
        self.do(self.creator, lambda s, c: transactions.transfer(s, c, grants))
        seed = fixed_genesis(RUN_SEED)
        self.do(self.creator, lambda s, c: transactions.create_task(s, c, terms, seed, node_stake))
        task = terms.task_id(self.creator.address, seed, node_stake)
        self.task = self.task or task
        for member, stake in zip(self.members, stakes, strict=False):
            self.join(member, stake, terms.max_slots, task)
        self.do(self.creator, lambda s, c: transactions.start(s, c, task))
        return task

    def join(self, member: Signer, stake: int, slots: int = 1, task: bytes = b"") -> None:
        task, tip = task or self.task, keccak(member.address.encode())
        expected = self.client.task_view(task).digest
        raws = transactions.join(
            member, self.client.context(member.address, self.creator.address), task, stake, tip, expected, slots
        )
        self.client.broadcast(raws, self.epoch)

    def enter(self, node: Signer, stake: int, task: bytes = b"") -> None:
        """Enter a contest."""
        task = task or self.task
        expected = self.client.task_view(task).digest
        context = self.client.context(node.address, self.creator.address)
        self.client.broadcast(transactions.enter(node, context, task, stake, expected), self.epoch)

    def report(
        self, earned: dict[str, int] | None = None, slashes: Sequence[ReportedSlash] = (), task: bytes = b""
    ) -> tuple[Report, MerkleTree]:
        task = task or self.task
        view = self.client.task_view(task)
        earned = self.earned if earned is None else earned
        tree = MerkleTree(reward_leaf(self.domain, task, account, amount) for account, amount in earned.items())
        report = Report(
            task=task,
            epoch=view.last_settled + 1,
            previous_report=view.last_report,
            seed=view.seed,
            reveals_digest=keccak(b"reveals"),
            rewards_root=tree.root,
            rewards_total=sum(earned.values()),
            slashes=tuple(slashes),
            model_hash=keccak(b"model %d" % view.last_settled),
            record_hash=keccak(b"record"),
            relayer=self.client.info().relayer,
        )
        return report, tree

    def voters(self, task: bytes = b"") -> list[Signer]:
        task = task or self.task
        view = self.client.task_view(task)
        signers = {signer.address: signer for signer in self.members}
        epoch = view.last_settled + 1
        owners = view.slot_owners(epoch)
        seats = draw_seats(view.seed, task, epoch, len(owners), view.terms.num_voters)
        return [signers[view.members[owners[slot]].account] for slot in seats]

    def sign(self, report: Report, seats: int) -> bytes:
        digest = report_digest(self.domain, report)
        signers = enumerate(self.voters(report.task))
        return b"".join(compact(voter.sign_digest(digest)) for seat, voter in signers if seats >> seat & 1)

    def settle(self, report: Report, seats: int = 0b1111) -> TxReceipt:
        self.epoch = report.epoch
        work = self.client.task_view(report.task).roster.work(report.epoch)
        receipt = self.client.settle(report, seats, self.sign(report, seats), work)
        assert self.client.task_view(report.task).last_report == report_hash(report)
        return receipt
