"""What it takes when thousands of members join a task, claim what they earned, and have their stakes released.

The driver's own ledger and its chain actor do it on an anvil of the run; only the node groups are stood in for: all
members sign in this process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.common import environment, step, store, tell
from flock_ray.chain.anvil import find_anvil
from flock_ray.chain.eip712 import Domain, report_digest
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.cluster.attestation import Attestation
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.cluster.launch import chain_terms, terms_of
from flock_ray.cluster.member import hash_chain
from flock_ray.cluster.runtime import ray_cluster
from flock_ray.cluster.worker import Worker
from flock_ray.config import AllianceConfig, ChainBackend, ChainConfig, ClusterConfig, Config
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.state import TaskState

NUM_MEMBERS, QUICK_MEMBERS = 10_000, 200
_ADAPTER = keccak(b"adapter")


class Members:
    """All members of a run, in one process: what `ChainLedger` asks of the node groups."""

    def __init__(self, config: Config) -> None:
        """Derive their keys."""
        numbers = range(config.alliance.num_members)
        self.config = config
        self.signers = {number: run_signer(config.seed, f"member-{number}") for number in numbers}
        self.terms = terms_of(config, keccak(b"base model"))
        members = {number: SimpleNamespace(signer=signer) for number, signer in self.signers.items()}
        for member in members.values():
            member.hash_chain = self._chain_of(member.signer)
        self._host = SimpleNamespace(
            _spec=SimpleNamespace(terms=self.terms, chain_terms=chain_terms(config), index=0),
            _bench=SimpleNamespace(base=SimpleNamespace(hash=self.terms.base_model)),
            _adapter=_ADAPTER,
            _hosting=SimpleNamespace(members=members, join=lambda task: None),
        )

    def _chain_of(self, signer: Signer) -> Callable[[bytes], Any]:
        return lambda task: hash_chain(signer, task, self.config.alliance.num_epochs)

    @property
    def accounts(self) -> dict[int, str]:
        """{member: address}."""
        return {number: signer.address for number, signer in self.signers.items()}

    def begin(self, state: TaskState, domain: Domain) -> None:
        """Take up a task."""
        self._host._state, self._host._domain = state, domain

    def run(self, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        """The answer of the only node group."""
        yield 0, getattr(Worker, method)(self._host, *args)


def settle_everything(ledger: ChainLedger, members: Members, state: TaskState) -> TaskState:
    """Settle the only epoch, in which all members earn the same; the state after it."""
    share = members.terms.pool // len(state.members)
    task, domain, voters = state.scope.task, ledger.domain, state.roles.voters
    leaves = tuple((member.account, share) for member in state.members)
    tree = MerkleTree(reward_leaf(domain, task, *leaf) for leaf in leaves)
    report = Report(
        task=task,
        epoch=state.epoch,
        previous_report=bytes(32),
        seed=state.seed,
        reveals_digest=keccak(b"reveals"),
        rewards_root=tree.root,
        rewards_total=share * len(leaves),
        slashes=(),
        model_hash=keccak(b"model"),
        record_hash=keccak(b"record"),
        relayer=ledger.relayer,
    )
    digest = report_digest(domain, report)
    signatures = {voter: members.signers[voter].sign_digest(digest) for voter in voters}
    record: Any = SimpleNamespace(roles=state.roles, leaves=leaves)
    ledger.settle(state, record, Attestation(b"", report, signatures))
    for _ in ledger.settled(0):
        pass
    earned = tuple(replace(member, earned=share) for member in state.members)
    return replace(state, members=earned, epoch=state.epoch + 1)


def joins_and_claims(num_members: int, folder: Path) -> dict[str, float]:
    """Wall seconds in which all members stake and join, and in which all claim and have their stakes released."""
    alliance = AllianceConfig(num_members=num_members, hosts=1, num_epochs=1, num_proposers=1)
    config = Config(seed=1, alliance=alliance, chain=ChainConfig(backend=ChainBackend.anvil))
    with ray_cluster(ClusterConfig()):
        members = Members(config)
        ledger = ChainLedger(config, folder, members.accounts)
        ledger.tell = tell
        with step(f"contracts, and tokens for {num_members:,} members"):
            ledger.deploy()
        began = time.perf_counter()
        with step(f"{num_members:,} members join"):
            state = ledger.create_task(members.terms, _ADAPTER, members)  # type: ignore[arg-type]
        joined = time.perf_counter() - began
        with step("the only epoch is settled"):
            members.begin(state, ledger.domain)
            state = settle_everything(ledger, members, state)
        began = time.perf_counter()
        with step(f"{num_members:,} members are paid and get their stakes"):
            ledger.pay_out(state, members)  # type: ignore[arg-type]
        paid = time.perf_counter() - began
        assert set(ledger.balances(state).values()) == {members.terms.min_stake + members.terms.pool // num_members}
    return {"joins_10000_seconds": joined, "claims_10000_seconds": paid}


PARTS: dict[str, Callable[[int, Path], dict[str, float]]] = {"joins_and_claims": joins_and_claims}


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store. Takes no overrides."""
    if find_anvil() is None:
        sys.exit("members join on an anvil: npm install in contracts/ brings one")
    before, num_members = environment(), QUICK_MEMBERS if quick else NUM_MEMBERS
    headline: dict[str, float] = {}
    for name, part in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            headline |= part(num_members, Path(folder) / name)
    store("membership", {"environment": before, "members": num_members, "headline": headline}, quick)
    for name, value in headline.items():
        print(f"{name}: {value:.1f}")
