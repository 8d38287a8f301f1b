"""One worker's bench: the resident base model, the silos of the members it hosts, the engine, and what was computed."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from flock_ray.aggregation.aggregate import Aggregation
from flock_ray.aggregation.registry import rule_of
from flock_ray.aggregation.start import Start
from flock_ray.cluster.spec import GroupSpec
from flock_ray.errors import TrainingError
from flock_ray.lora.algebra import initial_adapter, subtract
from flock_ray.lora.fixed_point import extremes
from flock_ray.lora.peft_io import adapter_shapes
from flock_ray.lora.serialization import Adapter, adapter_hash, canonical_bytes, layout
from flock_ray.protocol.ballot import Check, Score
from flock_ray.protocol.seed import local_seed
from flock_ray.store.blob_store import BlobCorruptedError, BlobMissingError, BlobStore, BlobTooLargeError
from flock_ray.training.cohort import cohorts
from flock_ray.training.data import Example, Silo, batches, load_silo
from flock_ray.training.device import set_deterministic
from flock_ray.training.engine import Engine, LossJob, MemberJob, Rendezvous, Result, SequenceLoss
from flock_ray.training.evaluation import mean_loss, paired_score
from flock_ray.training.flops import FlopCounter, gemm_rate
from flock_ray.training.model import BaseModel, load_base
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions
from flock_ray.training.torch_engine import TorchEngine
from flock_ray.wire_format.dense import read_canonical
from flock_ray.wire_format.registry import wire_format_of
from flock_ray.wire_format.wire_format import MalformedPayload

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")

_WORTH_A_THREAD = 1 << 20  # bytes


class _GoneError(Exception):
    """An update that was there before cannot be had again."""


@dataclass(frozen=True)
class LocalUpdate:
    """A proposer's training in one epoch, before it is encoded.

    Attributes:
        delta: factor deltas from the global adapter; empty once they are encoded.
        samples: the examples used, for the salted digest.
        losses: training loss of each step.
    """

    delta: Adapter
    samples: tuple[Example, ...]
    losses: tuple[float, ...]


class Workbench:
    """Trains and scores for the members of one node. Results are pure functions of adapter, member, epoch and seed.

    What was computed is remembered until the epoch ends, so no loss is computed twice and a lost worker can redo it.
    """

    def __init__(self, spec: GroupSpec, rendezvous: Rendezvous) -> None:
        """Load base model and silos; with several ranks, meet the others."""
        torch.set_num_threads(spec.threads)
        set_deterministic(spec.deterministic)
        self.spec = spec
        self._seconds: dict[str, float] = {}
        self._inside = 0.0  # seconds counted so far inside the block that runs
        self._num_threads = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._num_threads)
        self.begin_phase("load", len(spec.preload.intersection(spec.silos)))
        self.base = self._load_base(rendezvous)
        self._silos: dict[int, Silo] = {}
        self._opened: dict[int, Silo] = {}
        self.assign(spec.hosts)
        self.shapes = adapter_shapes(self.base.model, spec.lora.target_modules, spec.lora.rank)
        self.wire_format = wire_format_of(spec.terms)
        self.store = BlobStore(spec.store_url)
        self._flops = FlopCounter.of(self.base.model, spec.lora.target_modules, spec.lora.rank)
        self._budget = spec.cohort_tokens * rendezvous.world  # ranks share a cohort out
        self._rate = max(gemm_rate(self.base.dtype, self.base.device).values()) * rendezvous.world
        self._engine = self._make_engine(rendezvous)
        self._adapters: dict[bytes, Adapter] = {}
        self._candidate_losses: dict[tuple[int, bytes], list[SequenceLoss]] = {}
        self._proposal_losses: dict[tuple[int, bytes], list[SequenceLoss]] = {}
        self._updates: dict[bytes, Adapter | Check] = {}
        self._grid: tuple[bytes, Start] | None = None
        self._running: tuple[bytes, tuple[bytes, ...], Aggregation] | None = None
        self._trained: dict[tuple[int, bytes], dict[int, LocalUpdate]] = {}
        self._combined: dict[tuple[bytes, tuple[bytes, ...]], tuple[bytes | None, tuple[int, ...]]] = {}

    def _load_base(self, rendezvous: Rendezvous) -> BaseModel:
        """The base model: whole, or where it need not fit in one place, this rank's share."""
        if self.spec.engine == "torch" or self.spec.zero_stage < 3:
            return load_base(self.spec.model)
        from flock_ray.training.deepspeed_engine import load_sharded

        return load_sharded(self.spec.model, rendezvous)

    def assign(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        """Carry these logical hosts, {number: silos}; silos that were loaded before stay loaded."""
        self.spec = replace(self.spec, hosts=dict(hosts))
        self._host = {silo: host for host, silos in hosts.items() for silo in silos}
        for number in sorted(self.spec.preload.intersection(self.spec.silos)):
            self.silo(number)
            self.step()

    def silo(self, number: int) -> Silo:
        """A silo's data, loaded on first use."""
        if number not in self._silos:
            self._silos[number] = self._opened[number] = self._load_silo(number)
        return self._silos[number]

    def take_opened(self) -> dict[int, Silo]:
        """The silos that were opened since the last call."""
        taken, self._opened = self._opened, {}
        return taken

    def _load_silo(self, number: int) -> Silo:
        return load_silo(self.spec.data, number, self.base.tokenizer)

    def _make_engine(self, rendezvous: Rendezvous) -> Engine:
        """The configured engine; DeepSpeed is imported only where it runs."""
        spec = self.spec
        grouped = spec.backend == "grouped"
        options = StackedOptions(grouped, spec.compiled, spec.checkpointing, max_tokens=spec.cohort_tokens)
        if spec.engine == "torch":
            stacked = spec.backend != "sequential"
            return StackedEngine(self.base, spec.lora, options) if stacked else TorchEngine(self.base, spec.lora)
        from flock_ray.training.deepspeed_engine import DeepSpeedEngine, StackedRanks, ZeroSpec

        if spec.backend != "sequential":
            return StackedRanks(self.base, spec.lora, options, rendezvous, spec.rank_split == "rows")
        zero = ZeroSpec(spec.zero_stage, spec.zero_persistence_threshold)
        return DeepSpeedEngine(self.base, spec.lora, zero, rendezvous)

    def begin_phase(self, phase: str, total: int) -> None:
        """Tell that `total` steps of a phase are ahead, for whoever asks for the progress."""
        self.progress = (phase, 0, total)

    def step(self) -> None:
        """Tell that one more step of the phase is done."""
        phase, done, total = self.progress
        self.progress = (phase, min(done + 1, total), total)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Count the wall time of a block under `kind`, but for the time that is counted inside it."""
        outside, self._inside = self._inside, 0.0
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self._seconds[kind] = self._seconds.get(kind, 0.0) + spent - self._inside
            self._inside = outside + spent

    def in_threads(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """What `work` on payloads gives for each item, in order, a few items ahead.

        Hashing, files and tensors free Python's lock; for small payloads waiting for it would cost more than they gain.
        """
        if self.wire_format.max_bytes(self.shapes) < _WORTH_A_THREAD:
            yield from map(work, items)
            return
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(self._pool.submit(work, item))
            if len(waiting) > 2 * self._num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def take_seconds(self) -> dict[str, float]:
        """The seconds counted since the last call."""
        taken, self._seconds = self._seconds, {}
        return taken

    def initial_adapter(self) -> bytes:
        """Hash of the adapter that the run starts from; puts it into the store."""
        digest = self.remember(initial_adapter(self.shapes, local_seed(self.spec.run_seed, "adapter")))
        self.publish(digest)
        return digest

    def publish(self, digest: bytes) -> None:
        """Put the canonical bytes of a remembered adapter into the store."""
        with self.timed("transfer"):
            self.store.put(canonical_bytes(self._adapters[digest]))

    def remember(self, adapter: Adapter) -> bytes:
        """Remember an adapter of this epoch by its hash."""
        digest = adapter_hash(adapter)
        self._adapters[digest] = adapter
        return digest

    def adapter(self, digest: bytes) -> Adapter:
        """The adapter of this hash, from memory or the store."""
        if digest not in self._adapters:
            data = self.store.get(digest, layout(self.shapes).size)
            self._adapters[digest] = read_canonical(data, self.shapes)
        return self._adapters[digest]

    def train(self, members: Sequence[int], epoch: int, start: bytes) -> dict[int, LocalUpdate]:
        """The local steps of these members in this epoch from the global adapter `start`; {member: update}.

        Always ask for all of the epoch's hosted proposers: who trains in one batch shapes the last bits.
        """
        trained = self._trained.setdefault((epoch, start), {})
        hosts = {self._host[member] for member in members if member not in trained}
        missing = [member for member in members if self._host[member] in hosts]
        with self.timed("train"):
            jobs = {member: self._job(member, epoch, start) for member in missing}
            costs = {member: _largest_step(job) for member, job in jobs.items()}
            for cohort in self._cohorts(costs, self._host.__getitem__):
                results = self._engine.train([jobs[member] for member in cohort], self.step)
                for member, result in zip(cohort, results, strict=True):
                    trained[member] = self._local_update(member, jobs[member], result)
        return {member: trained[member] for member in members}

    def _job(self, member: int, epoch: int, start: bytes) -> MemberJob:
        settings = self.spec.settings.of_epoch(epoch, self.spec.num_epochs)
        seed = local_seed(self.spec.run_seed, "batches", epoch, member)
        drawn = batches(self.silo(member), settings.steps, settings.batch_size, seed)
        return MemberJob(self.adapter(start), drawn, settings)

    def _local_update(self, member: int, job: MemberJob, result: Result) -> LocalUpdate:
        if isinstance(result, TrainingError):
            raise TrainingError(f"member {member}: {result}")
        delta = subtract(result.adapter, job.adapter)
        self._check_bound(member, delta)
        samples = tuple(example for batch in job.batches for example in batch)
        return LocalUpdate(delta, samples, tuple(result.losses))

    def _cohorts(self, costs: Mapping[Key, int], host: Callable[[Key], int]) -> list[list[Key]]:
        """Jobs by what they are called, packed to the budget: those of one logical host, or each by itself."""
        if self.spec.solo:
            return [[key] for key in costs]
        by_host: dict[int, list[Key]] = {}
        for key in costs:
            by_host.setdefault(host(key), []).append(key)
        return [
            [keys[index] for index in cohort]
            for keys in by_host.values()
            for cohort in cohorts([costs[key] for key in keys], self._budget)
        ]

    def forget_training(self) -> None:
        """Forget all updates: whose payloads are not kept, trains again."""
        self._trained.clear()

    def drop_deltas(self) -> None:
        """Free the deltas of all updates: their payloads are kept."""
        for updates in self._trained.values():
            updates.update({member: replace(update, delta={}) for member, update in updates.items()})

    def training_facts(self, updates: Collection[LocalUpdate], seconds: float) -> dict[str, float]:
        """How much was trained in so many seconds, and what this node's matrix products would do in one."""
        samples = [example for update in updates for example in update.samples]
        tokens = sum(example.num_labels for example in samples)
        flops = self._flops.training((len(example.input_ids) for example in samples), tokens)
        return {"tokens": tokens, "flops": flops, "seconds": seconds, "flops_per_second": self._rate}

    def _check_bound(self, member: int, delta: Adapter) -> None:
        """An honest update beyond the terms' bound ends the run here: sent, it would cost the member its stake."""
        largest, max_abs = max(max(-low, high) for low, high in map(extremes, delta.values())), self.wire_format.max_abs
        if not largest <= max_abs:
            raise TrainingError(
                f"the update of member {member} has an entry of {largest:.3g}, above wire_format.parameters.max_abs ="
                f" {max_abs}; lower training.learning_rate"
            )

    def updates(self, payloads: Sequence[bytes], keep: bool) -> Iterator[tuple[bytes, Adapter | Check]]:
        """Each distinct payload's decoded update, or why there is none, in this order; fetched and checked in threads.

        Args:
            payloads: their hashes.
            keep: remember what is fetched until the epoch ends; what is remembered is not fetched again.
        """
        distinct = list(dict.fromkeys(payloads))
        missing = [payload for payload in distinct if payload not in self._updates]
        if missing:
            self.begin_phase("fetch", len(missing))
        fetched = self.in_threads(self._fetch, missing)
        for payload in distinct:
            if payload in self._updates:
                yield payload, self._updates[payload]
                continue
            with self.timed("transfer"):
                update = next(fetched)
            if keep:
                self._updates[payload] = update
            self.step()
            yield payload, update

    def kept_updates(self, payloads: Sequence[bytes]) -> list[Adapter]:
        """The updates that are remembered."""
        kept = (self._updates.get(payload) for payload in payloads)
        return [update for update in kept if update is not None and not isinstance(update, Check)]

    def check(self, payloads: Sequence[bytes]) -> dict[bytes, Check]:
        """Fetch and check payloads, and keep the updates."""
        return {payload: _check(update) for payload, update in self.updates(payloads, keep=True)}

    def check_and_add(self, start: bytes, payloads: Sequence[bytes]) -> dict[bytes, Check]:
        """Fetch and check payloads by ascending member; the rule gets the updates as they come, and none is kept."""
        aggregation, checks = Aggregation(self._start(start), rule_of(self.spec.terms)), dict[bytes, Check]()
        for payload, update in self.updates(payloads, keep=False):
            checks[payload] = _check(update)
            if not isinstance(update, Check):
                with self.timed("aggregate"):
                    aggregation.add(update)
        valid = tuple(payload for payload, check in checks.items() if check is Check.VALID)
        self._running = start, valid, aggregation
        return checks

    def combine(self, start: bytes, payloads: Sequence[bytes]) -> tuple[bytes | None, tuple[int, ...]]:
        """Remember the candidate of accepted updates.

        Args:
            start: hash of the global adapter.
            payloads: of the accepted proposals, by ascending member.

        Returns:
            Its hash and their weights; None where one of them cannot be had or all weights are 0.
        """
        key = start, tuple(payloads)
        if key not in self._combined:
            if self._running is None or self._running[:2] != key:
                self.check_and_add(start, payloads)
            assert self._running is not None
            _, added, aggregation = self._running
            self._running = None
            if added != key[1]:
                return None, ()
            try:
                with self.timed("aggregate"):
                    made = aggregation.finish(self._once_more(payloads))
            except _GoneError:
                return None, ()
            self._combined[key] = (self.remember(made.adapter), made.weights) if made.adapter else (None, ())
        return self._combined[key]

    def _once_more(self, payloads: Sequence[bytes]) -> Iterator[Adapter]:
        """The updates of payloads that were valid before."""
        for _, update in self.updates(payloads, keep=False):
            if isinstance(update, Check):
                raise _GoneError
            yield update

    def _fetch(self, payload: bytes) -> Adapter | Check:
        try:
            # One that is too long is read nevertheless, within reason: only bytes of the signed hash prove anything
            # against the proposer, and others may write to the store too.
            data = self.store.get(payload, 2 * self.wire_format.max_bytes(self.shapes))
            return self.wire_format.decode(data, self.shapes)
        except (BlobMissingError, BlobTooLargeError, BlobCorruptedError):
            return Check.UNAVAILABLE
        except MalformedPayload:
            return Check.MALFORMED

    def _start(self, digest: bytes) -> Start:
        if self._grid is None or self._grid[0] != digest:
            self._grid = digest, Start(self.adapter(digest))
        return self._grid[1]

    def _with_one(self, start: bytes, payload: bytes) -> Adapter:
        """Global adapter + the update of one payload that decoded."""
        [(_, update)] = self.updates([payload], keep=True)
        assert not isinstance(update, Check)
        with self.timed("aggregate"):
            return self._start(start).with_one(update)

    def _measure(
        self,
        pairs: Iterable[tuple[int, bytes]],
        known: dict[tuple[int, bytes], list[SequenceLoss]],
        adapter_of: Callable[[bytes], Adapter],
    ) -> None:
        """Held-out losses of members under adapters, (member, name of the adapter); those in `known` are not redone."""
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        costs = {pair: sum(len(example.input_ids) for example in self.silo(pair[0]).heldout) for pair in missing}
        for cohort in self._cohorts(costs, lambda pair: self._host[pair[0]]):
            jobs = [LossJob(adapter_of(name), self.silo(member).heldout) for member, name in cohort]
            known.update(zip(cohort, self._engine.losses(jobs, self.step), strict=True))

    def score_proposals(
        self, voters: Sequence[int], start: bytes, payloads: Sequence[bytes]
    ) -> dict[tuple[int, bytes], Score]:
        """{(voter, payload hash): score against the global adapter of what this update alone makes of it}.

        Always ask for all hosted voters and all that decoded at once, after `evaluate` of the global adapter.
        """
        names = {start + payload: payload for payload in payloads}
        pairs = [(voter, name) for voter in voters for name in names]
        missing = {name for voter, name in pairs if (voter, name) not in self._proposal_losses}
        adapters = {name: self._with_one(start, names[name]) for name in missing}
        with self.timed("vote"):
            self._measure(pairs, self._proposal_losses, adapters.__getitem__)
        return {
            (voter, names[name]): paired_score(self._global_losses[voter], self._proposal_losses[voter, name])
            for voter, name in pairs
        }

    def score_candidate(self, voters: Sequence[int], candidate: bytes) -> dict[int, Score]:
        """{voter: score of the candidate against the global adapter}.

        Where everybody evaluates, all members of the voters' hosts measure it in the same batches as they evaluate it
        if it becomes global.
        """
        hosts = {self._host[voter] for voter in voters}
        members = list(voters)
        if self.spec.evaluate is None:
            members = [member for member in self._global_losses if self._host[member] in hosts]
        with self.timed("vote"):
            self._measure([(member, candidate) for member in members], self._candidate_losses, self.adapter)
        return {
            voter: paired_score(self._global_losses[voter], self._candidate_losses[voter, candidate])
            for voter in voters
        }

    def evaluate(self, silos: Sequence[int], adapter: bytes) -> dict[int, float]:
        """{silo: mean held-out loss under the global adapter, nats a token}.

        Always ask for all hosted members at once, in rising order: who is measured in one batch shapes the last bits.
        """
        self.begin_phase("evaluate", len(silos))
        if self.spec.evaluate is not None:  # others were measured together than those who evaluate
            self.forget_losses()
        with self.timed("evaluate"):
            self._measure([(silo, adapter) for silo in silos], self._candidate_losses, self.adapter)
        self._global_losses = {silo: self._candidate_losses[silo, adapter] for silo in silos}
        return {member: mean_loss(losses) for member, losses in self._global_losses.items()}

    def forget_losses(self) -> None:
        """Forget what was measured: others are to be measured together from now on."""
        self._candidate_losses.clear()

    def end_epoch(self, adapter: bytes) -> None:
        """Forget what the epoch computed, but the global adapter and its losses."""
        self._adapters = {adapter: self.adapter(adapter)}
        self._candidate_losses = {key: losses for key, losses in self._candidate_losses.items() if key[1] == adapter}
        self._proposal_losses.clear()
        self._updates.clear()
        self._running = None
        self._trained.clear()
        self._combined.clear()

    def close(self) -> None:
        """Leave the process group, if there is one."""
        self._pool.shutdown()
        self._engine.close()


def _check(update: Adapter | Check) -> Check:
    return update if isinstance(update, Check) else Check.VALID


def _largest_step(job: MemberJob) -> int:
    """Tokens of a member's largest step."""
    return max(sum(len(example.input_ids) for example in batch) for batch in job.batches)
