"""A worker outside of epochs: loads model and silos, opens keys, signs its owners' transactions."""

from __future__ import annotations

import gc
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from flock_ray.adversary.behaviour import Behaviour
from flock_ray.adversary.registry import get_behaviour
from flock_ray.chain.eip712 import Domain
from flock_ray.chain.keys import Signer, load_signer, run_signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.chain.transactions import claim, join, release, resign
from flock_ray.chain.values import TxContext
from flock_ray.cluster.hosted_members import HostedMembers
from flock_ray.cluster.member import Member
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.spec import Enrolment, GroupInfo, GroupSpec, SiloFacts, with_model
from flock_ray.cluster.vitals import Vitals
from flock_ray.cluster.workbench import Workbench
from flock_ray.errors import ChainError, TrainingError
from flock_ray.protocol.hashing import sha256, tagged
from flock_ray.protocol.state import TaskState
from flock_ray.store.blob_store import BlobStore
from flock_ray.training.data import num_target_bytes
from flock_ray.training.engine import Rendezvous


class WorkerHost:
    """Loads what a worker needs, and acts for the owners of its silos outside of epochs.

    Attributes:
        workbench: what trains and scores; benchmarks put a simulated one here.
    """

    workbench: ClassVar[type[Workbench]] = Workbench

    _task: RunningTask

    def __init__(self, spec: GroupSpec, rank: int) -> None:
        """Take the group's description; `load` does the work."""
        self._spec = spec
        self._rank = rank
        self._listener: Any = None
        self._signers: dict[int, Signer] = {}

    def open_rendezvous(self) -> tuple[str, int]:
        """Listen where the ranks of the group meet: host and port, which stay this worker's; none where none meet."""
        if self._spec.engine != "deepspeed":
            return "", 0
        from flock_ray.training.deepspeed_engine import listen

        self._listener = listen()
        return self._listener.host, self._listener.port

    def load(self, host: str, port: int, world: int) -> GroupInfo:
        """Load base model and silos, make the engine and try it, open the members' keys (rank 0).

        Raises:
            DataError, ModelError, KeyMissingError, TrainingError: what the user can repair.
        """
        spec = self._spec
        self._hosting = HostedMembers(BlobStore(spec.store_url), self._open_owner)
        self._host_members(spec.hosts)
        self._bench = self.workbench(spec, Rendezvous(host, port, self._rank, world, self._listener))
        base = self._bench.base
        accounts = {silo: owner.signer.address for silo, owner in self._hosting.owners.items()}
        self._adapter = self._bench.initial_adapter()
        self._bench.try_step()
        gc.freeze()  # the modules and the model stay: looking through them for garbage takes a third of a second
        return GroupInfo(
            accounts, self._opened(), base.name, base.hashes, str(base.dtype).removeprefix("torch."),
            base.num_parameters, self._adapter, str(base.folder.resolve()), self._bench.targets, self._bench.notes,
        )  # fmt: skip

    def _opened(self) -> tuple[SiloFacts, ...]:
        """Facts of the silos that were opened since the last call."""
        tokenizer = self._bench.base.tokenizer
        return tuple(
            SiloFacts(
                silo=number,
                name=silo.name,
                num_train_tokens=silo.num_train_tokens,
                num_train=len(silo.train),
                num_heldout=len(silo.heldout),
                num_heldout_tokens=sum(example.num_labels for example in silo.heldout),
                num_heldout_bytes=num_target_bytes(tokenizer, silo.heldout),
                rows=silo.counts,
            )
            for number, silo in self._bench.silos.take_opened().items()
        )

    def assign(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        """Carry these logical hosts, {number: silos}, from now on; what is not loaded yet is loaded.

        Raises:
            DataError, KeyMissingError: a member's data or key is not to be had here.
        """
        self._spec = replace(self._spec, hosts=dict(hosts))
        self._host_members(hosts)
        self._bench.assign(hosts)

    def _host_members(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        if self._rank == 0:
            self._hosting.assign(hosts)

    def _open_owner(self, silo: int) -> Member:
        spec = self._spec
        name = f"member-{silo}"
        if silo not in self._signers:  # a keystore file takes a second to open
            self._signers[silo] = run_signer(spec.run_seed, name) if spec.embedded else load_signer(name, spec.keystore)
        return Member(silo, self._signers[silo], Path(spec.state_dir) / name, self._behaviour(silo), spec.reveals)

    def _behaviour(self, silo: int) -> Behaviour:
        """How the owner of a silo behaves."""
        spec = self._spec
        kind = spec.behaviours.get(silo, "none")
        accomplices = [one for one, other in spec.behaviours.items() if other == kind]
        secret = tagged("flock_ray/coalition-secret/1", spec.run_seed, sha256(kind.encode()))
        return get_behaviour(kind)(spec.adversary_scale, accomplices, secret)

    def probe(self, token: str) -> None:
        """Read the driver's probe from the store, and write one for the driver to read.

        Raises:
            StoreError: the store is not the same from here.
        """
        if self._rank == 0:
            self._bench.updates.store.probe_read(token)
            self._bench.updates.store.probe_write(f"{token}{self._spec.index:04x}")

    def answer(
        self, group: int, adapters: Sequence[bytes], prompts: Sequence[str], max_tokens: int
    ) -> list[list[str]] | str | None:
        """Answers to prompts under each adapter, of one node group, or why there are none; None of the other groups."""
        if self._spec.index != group:
            return None
        try:
            return self._bench.answers(adapters, prompts, max_tokens)
        except TrainingError as error:
            return str(error)

    def vitals(self) -> Vitals:
        """What the worker does just now, and what it has used so far; asked while a phase runs."""
        progress = self._bench.progress.now if hasattr(self, "_bench") else ("load", 0, 0)
        return Vitals.of_this_process(progress)

    @property
    def _state(self) -> TaskState:
        return self._task.state

    @property
    def _domain(self) -> Domain:
        return self._task.domain

    @property
    def _relayer(self) -> str:
        return self._task.relayer

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
        agreed = with_model(spec.terms, creator, self._bench.base.hashes, self._adapter)
        terms = replace(spec.chain_terms, terms_hash=agreed.digest(), model_hash=self._adapter)
        if task != terms.task_id(creator, seed):
            raise ChainError(f"task 0x{task.hex()} has other terms than the configuration of node group {spec.index}")
        amount, expected = terms.min_stake * terms.max_slots, terms.digest(creator)
        enrolments = {}
        self._hosting.join(task, silos)
        for silo, owner in self._hosting.owners.items():
            if silo in silos:
                tip, context = owner.hash_chain(task).tip, contexts.get(silo)
                raw = join(owner.signer, context, task, amount, tip, expected, terms.max_slots) if context else []
                enrolments[silo] = Enrolment(tip, tuple(raw))
        return enrolments

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
