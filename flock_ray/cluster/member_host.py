"""A worker outside of epochs: opens keys, signs its owners' transactions, and tells how it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flock_ray.adversary.behaviour import Behaviour, World
from flock_ray.chain.eip712 import Domain
from flock_ray.chain.keys import Signer, load_signer, run_signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.transactions import claim, join, release, resign
from flock_ray.chain.values import TaskTerms, TxContext
from flock_ray.cluster.hosted_members import HostedMembers
from flock_ray.cluster.member import Member
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.spec import Enrolment, HostSpec, with_model
from flock_ray.cluster.vitals import Vitals
from flock_ray.errors import ChainError
from flock_ray.protocol.state import TaskState, Terms
from flock_ray.store.blob_store import BlobStore
from flock_ray.training.model import ModelHashes


class MemberHost(ABC):
    """Holds the keys of the silos' owners, and acts for them outside of epochs."""

    _spec: HostSpec
    _task: RunningTask
    _hosting: HostedMembers
    _adapter: bytes
    """Hash of the adapter that the run starts from."""
    _world: World | None = None
    """What dishonest members can look up or compute."""

    def __init__(self, spec: HostSpec, rank: int) -> None:
        """Take the group's description; `load` does the work."""
        self._spec = spec
        self._rank = rank
        self._listener: Any = None
        self._signers: dict[int, Signer] = {}

    @property
    @abstractmethod
    def _progress(self) -> Progress:
        """Of the phase that runs."""

    @property
    @abstractmethod
    def _hashes(self) -> ModelHashes:
        """Of the base model."""

    @abstractmethod
    def _behaviour(self, silo: int) -> Behaviour:
        """How the owner of a silo behaves."""

    def open_rendezvous(self) -> tuple[str, int]:
        """Listen where the ranks of the group meet: host and port, which stay this worker's; none where none meet."""
        if self._spec.engine != "deepspeed":
            return "", 0
        from flock_ray.training.deepspeed_engine import listen

        self._listener = listen()
        return self._listener.host, self._listener.port

    def _host_members(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        if self._rank == 0:
            self._hosting.assign(hosts)

    def _open_owner(self, silo: int) -> Member:
        spec = self._spec
        name = f"member-{silo}"
        if silo not in self._signers:  # a keystore file takes a second to open
            self._signers[silo] = self._open_signer(name)
        owner = Member(silo, self._signers[silo], Path(spec.state_dir) / name, self._behaviour(silo), spec.reveals)
        owner.world = self._world
        return owner

    def _open_signer(self, name: str) -> Signer:
        spec = self._spec
        return run_signer(spec.run_seed, name) if spec.embedded else load_signer(name, spec.keystore)

    def probe(self, token: str) -> None:
        """Read the driver's probe from the store, and write one for the driver to read.

        Raises:
            StoreError: the store is not the same from here.
        """
        if self._rank == 0:
            store = BlobStore(self._spec.store_url)
            store.probe_read(token)
            store.probe_write(f"{token}{self._spec.index:04x}")

    def vitals(self) -> Vitals:
        """What the worker does just now, and what it has used so far; asked while a phase runs."""
        return Vitals.of_this_process(self._progress.now)

    @property
    def _state(self) -> TaskState:
        return self._task.state

    @property
    def _domain(self) -> Domain:
        return self._task.domain

    @property
    def _relayer(self) -> str:
        return self._task.relayer

    def _agreed(self, creator: str) -> Terms:
        """The terms that the owners here agree to, of a task of `creator`."""
        return with_model(self._spec.terms, creator, self._hashes, self._adapter)

    # -- membership ----------------------------------------------------------------------------------------------

    def enrol(
        self, task: bytes, creator: str, seed: bytes, silos: Collection[int], contexts: dict[int, TxContext]
    ) -> dict[int, Enrolment]:
        """{silo: hash-chain tip of its owner, and its signed transactions that stake}.

        Owners compute from their own configuration, model and adapter what the contract must hold of the task, and
        join no other.

        Args:
            task: id of the task.
            creator: account that created it.
            seed: that it was created with.
            silos: whose owners are to join, here or elsewhere.
            contexts: {silo: what its owner must know of the chain}; who has none signs no transaction.

        Raises:
            ChainError: it is another task.
        """
        spec = self._spec
        agreed = self._agreed(creator)
        terms = replace(
            spec.chain_terms, terms_hash=agreed.digest(), model_hash=self._adapter, target_set_hash=agreed.target_set
        )
        if task != terms.task_id(creator, seed, agreed.node_stake):
            raise ChainError(f"task 0x{task.hex()} has other terms than the configuration of node group {spec.index}")
        expected, enrolments = terms.digest(creator, agreed.node_stake), {}
        self._hosting.join(task, silos)
        for silo, owner in self._hosting.owners.items():
            if silo in silos:
                tip, context = owner.hash_chain(task).tip, contexts.get(silo)
                raw = self._joins(owner, context, task, terms, agreed, expected) if context else []
                enrolments[silo] = Enrolment(tip, tuple(raw))
        return enrolments

    def _joins(
        self, owner: Member, context: TxContext, task: bytes, terms: TaskTerms, agreed: Terms, expected: bytes
    ) -> list[bytes]:
        """The transactions by which an owner stakes and joins."""
        amount, tip = terms.min_stake * terms.max_slots, owner.hash_chain(task).tip
        return join(owner.signer, context, task, amount, tip, expected, terms.max_slots)

    def resign(self, task: bytes, contexts: dict[int, TxContext]) -> dict[int, tuple[bytes, ...]]:
        """{silo: its owner's signed transactions} by which members ask to leave a task.

        Args:
            task: id of the task.
            contexts: {silo: what its owner must know of the chain} of those that are to leave.
        """
        owners = self._hosting.owners
        return {
            silo: tuple(resign(owners[silo].signer, contexts[silo], task)) for silo in sorted(contexts.keys() & owners)
        }

    def collect_earnings(
        self,
        contexts: dict[int, TxContext],
        leaves: tuple[tuple[str, int], ...],
        claimed: dict[int, int],
        pooled: frozenset[int],
        locked: frozenset[int],
    ) -> dict[int, tuple[bytes, ...]]:
        """{silo: raw transactions} by which its owner claims what it earned and has its stake released.

        Args:
            contexts: {silo: what its owner must know of the chain} of those with something to collect.
            leaves: the cumulative reward table; empty while it does not pay.
            claimed: {silo: wei that its owner claimed before}.
            pooled: silos whose owners' rewards go to their pools in the vault.
            locked: silos whose owners' stake can be released.
        """
        task = self._state.scope.task
        tree = MerkleTree(reward_leaf(self._domain, task, account, wei) for account, wei in leaves)
        earned = dict(leaves)
        transactions = {}
        owners = self._hosting.owners
        for number in sorted(contexts.keys() & owners):
            signer, context = owners[number].signer, contexts[number]
            raw: list[bytes] = []
            cumulative = earned.get(signer.address, 0)
            if cumulative > claimed[number]:
                proof = tree.proof(reward_leaf(self._domain, task, signer.address, cumulative))
                raw += claim(signer, context, task, signer.address, cumulative, proof, number in pooled)
            if number in locked:
                raw += release(signer, replace(context, nonce=context.nonce + len(raw)), task, signer.address)
            transactions[number] = tuple(raw)
        return transactions
