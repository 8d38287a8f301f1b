"""What a worker computes with: the resident base model, the silos of its hosts, the engine, the store."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import ClassVar

import torch

from flock_ray.aggregation.registry import rule_of
from flock_ray.cluster.aggregator import Aggregator
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.scorer import Scorer
from flock_ray.cluster.silos import HostedSilos
from flock_ray.cluster.spec import GroupSpec
from flock_ray.cluster.splits import Splits
from flock_ray.cluster.trainer import Trainer
from flock_ray.cluster.update_store import UpdateStore
from flock_ray.errors import TrainingError
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_import import require_start
from flock_ray.lora.peft_io import adapter_shapes, shortest_targets
from flock_ray.lora.serialization import MAX_ADAPTER_BYTES, Shapes
from flock_ray.protocol.seed import local_seed
from flock_ray.training.architecture import architecture_errors, choose_backend, left_out, require_positions
from flock_ray.training.data import Example, Silo, load_silo
from flock_ray.training.device import set_deterministic
from flock_ray.training.engine import AnsweringEngine, Engine, MemberJob, Rendezvous
from flock_ray.training.flops import FlopCounter, gemm_rate
from flock_ray.training.generation import prompt_ids
from flock_ray.training.model import BaseModel, load_base
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions
from flock_ray.training.torch_engine import TorchEngine
from flock_ray.wire_format.registry import wire_format_of


@dataclass(frozen=True)
class Resident:
    """What serves any task: the base model, and the engine over it.

    Attributes:
        base: the base model, with the factors that the engine put into it.
        backend, notes: how it trains here, and what people should know of that.
        shapes: of an adapter.
        targets: names of the layers with factors; see `shortest_targets`.
        flops, rate: count the operations of local steps, and those that this machine does in a second.
        engine: trains and measures.
    """

    base: BaseModel
    backend: str
    notes: tuple[str, ...]
    shapes: Shapes
    targets: tuple[str, ...]
    flops: FlopCounter
    rate: float
    engine: Engine


class Workbench:
    """Loads what one worker needs and joins the parts that train, score and combine.

    Their results are pure functions of adapter, silo, epoch and seed. What was computed is remembered until the epoch
    ends, so no loss is computed twice and a lost worker can redo it.

    Attributes:
        training: class of `trainer`; benchmarks put a simulated one here.
        progress: of the phase that runs.
        base: the base model.
        notes: what people should know of how it trains here, a line each.
        silos: data of the hosts that it carries.
        targets: names of the layers with factors; see `shortest_targets`.
        updates: adapters and updates.
        splits: what updates add to what is public.
        aggregator, trainer, scorer: updates to candidate, silos to updates, adapters to losses.
    """

    training: ClassVar[type[Trainer]] = Trainer

    def __init__(self, spec: GroupSpec, rendezvous: Rendezvous) -> None:
        """Load base model and silos; with several ranks, meet the others."""
        torch.set_num_threads(spec.threads)
        set_deterministic(spec.deterministic)
        self.spec, self.progress = spec, Progress()
        self.progress.begin("load", len(spec.preload.intersection(spec.silos)))
        resident = self._load_resident(rendezvous)
        self.base, self.backend, self.notes = resident.base, resident.backend, resident.notes
        self.targets, self._engine = resident.targets, resident.engine
        budget = spec.cohort_tokens * rendezvous.world  # ranks share a cohort out
        self.silos = HostedSilos(self._load_silo, spec.preload, spec.solo, budget, self.progress)
        self.silos.assign(spec.hosts)
        self.updates = UpdateStore(spec.store_url, wire_format_of(spec.terms), resident.shapes, self.progress)
        self.splits = Splits(self.updates, self.progress)
        self.aggregator = Aggregator(self.updates, self.splits, partial(rule_of, spec.terms), self.progress)
        self.trainer = self.training(
            spec, self.silos, self.updates, self._engine, resident.flops, resident.rate, self.progress
        )
        self.scorer = Scorer(
            self.silos, self.updates, self.aggregator, self._engine, self.progress, spec.evaluate is None
        )

    def _load_resident(self, rendezvous: Rendezvous) -> Resident:
        """The base model and the engine over it."""
        lora = self.spec.lora
        self.base = self._load_base(rendezvous)
        self.backend, self.notes = self._look_at_model()
        shapes = adapter_shapes(self.base.model, lora.target_modules, lora.rank)
        targets = shortest_targets(self.base.model, lora.target_modules)
        rate = max(gemm_rate(self.base.dtype, self.base.device).values()) * rendezvous.world
        with architecture_errors(self._model_and_backend):
            flops = FlopCounter.of(self.base.model, lora)
            engine = self._make_engine(rendezvous)
        gc.freeze()  # the modules and the model stay: looking through them for garbage takes a third of a second
        return Resident(self.base, self.backend, self.notes, shapes, targets, flops, rate, engine)

    def _load_base(self, rendezvous: Rendezvous) -> BaseModel:
        """The base model: whole, or where it need not fit in one place, this rank's share."""
        if self.spec.engine == "torch" or self.spec.zero_stage < 3:
            return load_base(self.spec.model)
        from flock_ray.training.deepspeed_engine import load_sharded

        return load_sharded(self.spec.model, rendezvous)

    def _look_at_model(self) -> tuple[str, tuple[str, ...]]:
        """The backend that the model allows, and what is to be said about both."""
        model, longest = self.base.model, self.spec.data.longest
        require_positions(model, longest, self.spec.data.sequence_length)
        backend, reason = choose_backend(model, self.spec.backend, longest)
        because = f"Members train one after the other (training.backend=sequential): {reason}" if reason else ""
        return backend, tuple(note for note in (because, left_out(model, self.spec.lora)) if note)

    @property
    def _model_and_backend(self) -> str:
        return f"{self.base.name} with training.backend={self.backend}"

    def _load_silo(self, number: int) -> Silo:
        return load_silo(self.spec.data, self.spec.data_of.get(number, number), self.base.tokenizer)

    def _make_engine(self, rendezvous: Rendezvous) -> Engine:
        """The configured engine; DeepSpeed is imported only where it runs."""
        spec = self.spec
        grouped = self.backend == "grouped"
        options = StackedOptions(grouped, spec.compiled, spec.checkpointing, max_tokens=spec.cohort_tokens)
        if spec.engine == "torch":
            stacked = self.backend != "sequential"
            return StackedEngine(self.base, spec.lora, options) if stacked else TorchEngine(self.base, spec.lora)
        from flock_ray.training.deepspeed_engine import DeepSpeedEngine, StackedRanks, ZeroSpec

        if self.backend != "sequential":
            return StackedRanks(self.base, spec.lora, options, rendezvous, spec.rank_split == "rows")
        zero = ZeroSpec(spec.zero_stage, spec.zero_persistence_threshold)
        return DeepSpeedEngine(self.base, spec.lora, zero, rendezvous)

    def assign(self, hosts: Mapping[int, tuple[int, ...]]) -> None:
        """Carry these logical hosts, {number: silos}, from now on; errors as in `HostedSilos.assign`."""
        self.silos.assign(hosts)

    def initial_adapter(self) -> bytes:
        """Hash of the adapter that the run starts from; a new one is put into the store.

        Raises:
            ModelError: the one of `start_from` does not fit the base model and `lora.target_modules`.
        """
        if digest := self.spec.start_adapter:
            require_start(self.updates.store.get(digest, MAX_ADAPTER_BYTES), self.updates.shapes)
            self.updates.adapter(digest)
            return digest
        seed = local_seed(self.spec.run_seed, "adapter")
        digest = self.updates.remember(initial_adapter(self.updates.shapes, seed))
        self.updates.publish(digest)
        return digest

    def try_step(self) -> None:
        """Train a step on a made-up sequence and forget it: what cannot train is refused before anybody has staked.

        Raises:
            ModelError: the engine cannot train this model.
            TrainingError: its loss or its gradient is not finite.
        """
        vocabulary, longest = self.base.model.config.get_text_config().vocab_size, self.spec.data.longest
        example = Example.of([token % vocabulary for token in range(longest)], [True] * longest)
        start = initial_adapter(self.updates.shapes, local_seed(self.spec.run_seed, "adapter"))
        with architecture_errors(self._model_and_backend):
            [tried] = self._engine.train([MemberJob(start, [[example]], replace(self.spec.settings, steps=1))])
        if isinstance(tried, TrainingError):
            raise TrainingError(f"a step of {self._model_and_backend}, tried before the task begins, fails: {tried}")

    def answers(self, adapters: Sequence[bytes], prompts: Sequence[str], max_tokens: int) -> list[list[str]]:
        """The likeliest answers under each of these adapters, one to each prompt.

        Raises:
            TrainingError: this engine or model gives none.
        """
        if not isinstance(self._engine, AnsweringEngine) or self.spec.compiled:
            raise TrainingError("this training engine gives no answers")
        self.progress.begin("answer", len(adapters))
        given = [self.updates.adapter(digest) for digest in adapters]
        tokenizer, today = self.base.tokenizer, date.fromisoformat(self.spec.data.template_date)
        try:
            asked = [prompt_ids(tokenizer, [{"role": "user", "content": prompt}], today) for prompt in prompts]
            return self._engine.answers(given, tokenizer, asked, max_tokens)
        except Exception as error:  # generation is another library's, and models come from anywhere
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise TrainingError(f"the model gives no answers: {reason}") from error

    def end_epoch(self, adapters: Sequence[bytes]) -> None:
        """Forget what the epoch computed, but the last global adapters, the current one last, and its losses."""
        self.updates.end_epoch(adapters)
        self.splits.end_epoch()
        self.aggregator.end_epoch()
        self.scorer.end_epoch(adapters[-1])
        self.silos.end_epoch()
        self.trainer.forget()

    def close(self) -> None:
        """Leave the process group, if there is one."""
        self.updates.close()
        self._engine.close()
