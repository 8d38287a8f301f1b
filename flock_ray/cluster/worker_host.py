"""An alliance's worker outside of epochs: loads model and silos, and answers prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from flock_ray.adversary.behaviour import Behaviour
from flock_ray.adversary.part import coalition_secret, make_behaviour
from flock_ray.cluster.hosted_members import HostedMembers
from flock_ray.cluster.insight import Insight
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.signing_worker import SigningWorker
from flock_ray.cluster.spec import GroupInfo, GroupSpec, SiloFacts
from flock_ray.cluster.workbench import Workbench
from flock_ray.errors import TrainingError
from flock_ray.store.blob_store import BlobStore
from flock_ray.training.data import num_target_bytes
from flock_ray.training.engine import Rendezvous
from flock_ray.training.model import ModelHashes


class WorkerHost(SigningWorker):
    """Loads what a worker needs.

    Attributes:
        workbench: what trains and scores; benchmarks put a simulated one here.
    """

    workbench: ClassVar[type[Workbench]] = Workbench

    _spec: GroupSpec
    _insight: Insight

    @property
    def _progress(self) -> Progress:
        return self._bench.progress if hasattr(self, "_bench") else Progress("load")

    @property
    def _hashes(self) -> ModelHashes:
        return self._bench.base.hashes

    def load(self, host: str, port: int, world: int) -> GroupInfo:
        """Load base model and silos, make the engine and try it, open the members' keys (rank 0).

        Raises:
            DataError, ModelError, KeyMissingError, TrainingError: what the user can repair.
        """
        spec = self._spec
        self._world = self._insight = Insight(spec.store_url, lambda: self._bench, lambda: self._task)
        self._hosting = HostedMembers(BlobStore(spec.store_url), self._open_owner)
        self._host_members(spec.hosts)
        self._bench = self.workbench(spec, Rendezvous(host, port, self._rank, world, self._listener))
        base = self._bench.base
        accounts = {silo: owner.signer.address for silo, owner in self._hosting.owners.items()}
        self._adapter = self._bench.initial_adapter()
        self._bench.try_step()
        return GroupInfo(
            accounts, self._opened(), base.name, base.hashes, str(base.dtype).removeprefix("torch."),
            base.num_parameters, self._adapter, str(base.folder.resolve()), self._bench.targets, self._bench.notes,
        )  # fmt: skip

    @property
    def bench(self) -> Workbench:
        """What it trains and measures with."""
        return self._bench

    def close(self) -> None:
        """Leave what was loaded."""
        self._bench.close()

    def _opened(self) -> tuple[SiloFacts, ...]:
        """Facts of the silos that were opened since the last call."""
        tokenizer = self._bench.base.tokenizer
        return tuple(
            SiloFacts(
                silo=number,
                name=silo.name,
                num_train=len(silo.train),
                num_train_tokens=silo.num_train_tokens,
                num_train_inputs=sum(len(example.input_ids) for example in silo.train),
                num_heldout=len(silo.heldout),
                num_heldout_tokens=sum(example.num_labels for example in silo.heldout),
                num_heldout_inputs=sum(len(example.input_ids) for example in silo.heldout),
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

    def _behaviour(self, silo: int) -> Behaviour:
        """How the owner of a silo behaves."""
        spec = self._spec
        kind = spec.behaviours.get(silo, "none")
        accomplices = [one for one, other in spec.behaviours.items() if other == kind]
        return make_behaviour(kind, spec.adversary_scale, accomplices, coalition_secret(spec.run_seed, kind))

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
