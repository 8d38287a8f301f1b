"""A node group of several ranks: ZeRO stages 0 to 3 (Rajbhandari et al. 2020, arXiv:1910.02054) through DeepSpeed.

The only module that imports DeepSpeed. How members train at each stage:

- 0: every rank holds the whole base model. `StackedRanks` trains members in one batch, `DeepSpeedEngine` one after the
  other.
- 1, 2: optimizer state, and gradients, of an adapter are sharded, which gains little: an adapter is small. One member
  after the other only: DeepSpeed flattens what its optimizer sees, so that stacked members could not keep their own
  clipping, rates and steps.
- 3: the base model is sharded from loading on (`load_sharded`), for a model that does not fit; layers are gathered for
  the duration of a pass. One member after the other, as before.

`DeepSpeedEngine` gives every rank the whole batch and trains on its share of the rows, so that a step equals that of a
single process.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import ModelError, TrainingError
from flock_ray.lora.peft_io import LoraSpec, inject, load_adapter, read_adapter
from flock_ray.lora.serialization import Adapter
from flock_ray.training.data import IGNORED, Example
from flock_ray.training.engine import (
    LossJob,
    MemberJob,
    Rendezvous,
    Result,
    SequenceLoss,
    Tick,
    TrainOutcome,
    TrainSettings,
    no_tick,
    one_by_one,
    require_finite,
)
from flock_ray.training.generation import Prompts
from flock_ray.training.loss import CausalLoss, collate, sequence_losses
from flock_ray.training.model import BaseModel, ModelSpec, choose_dtype, load_base
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions

Item = TypeVar("Item")


@dataclass(frozen=True)
class ZeroSpec:
    """What is sharded across the ranks.

    Attributes:
        stage: 0 nothing, 1 optimizer state, 2 gradients too, 3 all parameters too: for a base model that does not fit.
        persistence_threshold: stage 3 keeps parameters with fewer elements whole on every rank.
    """

    stage: int
    persistence_threshold: int


def listen() -> Any:
    """Where the ranks of a group will meet: a store that listens on a free port of this machine, and keeps it."""
    host = socket.gethostbyname(socket.gethostname())
    return TCPStore(host, 0, is_master=True, wait_for_workers=False)


def _import_deepspeed(device: torch.device, rendezvous: Rendezvous) -> Any:
    """DeepSpeed; environment variables, which it reads once, identify this rank. One accelerator per process."""
    os.environ.update(
        MASTER_ADDR=rendezvous.host,
        MASTER_PORT=str(rendezvous.port),
        RANK=str(rendezvous.rank),
        WORLD_SIZE=str(rendezvous.world),
        LOCAL_RANK="0",
        DS_ACCELERATOR=device.type,
    )
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu":
        os.environ["LOCAL_SIZE"] = str(rendezvous.world)
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiles C++ that training never calls
    return deepspeed


def _join_ranks(device: torch.device, rendezvous: Rendezvous) -> Any:
    """DeepSpeed, after joining the process group of the ranks."""
    deepspeed = _import_deepspeed(device, rendezvous)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not distributed.is_initialized():
        rank, world = rendezvous.rank, rendezvous.world
        store = rendezvous.listener or TCPStore(rendezvous.host, rendezvous.port, world, rank == 0)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    deepspeed.init_distributed(backend, verbose=False)
    return deepspeed


@contextmanager
def _start(stage: int, rendezvous: Rendezvous) -> Iterator[None]:
    """Convert errors of DeepSpeed's start to a one-line TrainingError."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        raise TrainingError(
            f"DeepSpeed does not start with training.zero_stage={stage} on {rendezvous.world} ranks that meet at"
            f" {rendezvous.host}:{rendezvous.port}: {' '.join(str(error).split())}"
        ) from error


def load_sharded(spec: ModelSpec, rendezvous: Rendezvous) -> BaseModel:
    """Load and freeze a base model for stage 3: join the other ranks and shard each module as it is made.

    No rank ever holds tensors of more than its share and one module; on CPUs the C library may keep some freed memory.
    Rank 0 reads the weights, memory-mapped, and distributes module after module; every rank has to call this.

    Raises:
        ModelError: as `load_base` does.
        TrainingError: the ranks do not meet.
    """
    with _start(3, rendezvous):
        deepspeed = _join_ranks(torch.device(spec.device), rendezvous)
    from transformers.integrations import HfDeepSpeedConfig

    half = choose_dtype(spec.dtype, spec.device) == torch.bfloat16
    config = {
        "train_micro_batch_size_per_gpu": 1,  # for its statistics only
        "bf16": {"enabled": half},  # else modules are made in float32
        "zero_optimization": {"stage": 3},
    }
    registration = HfDeepSpeedConfig(config)  # transformers uses it for as long as the object lives
    try:
        return load_base(spec)
    except ModelError:
        deepspeed.comm.destroy_process_group()
        raise
    finally:
        del registration


class DeepSpeedEngine:
    """One rank of a group that trains and evaluates together; every rank makes the same calls in the same order."""

    def __init__(self, base: BaseModel, spec: LoraSpec, zero: ZeroSpec, rendezvous: Rendezvous) -> None:
        """Meet the other ranks, inject adapter layers into the base model in place, shard it at stage 3.

        Raises:
            TrainingError: the ranks do not meet, or DeepSpeed cannot hold this model at this stage.
        """
        self._zero, self._rank, self._world, self._device = zero, rendezvous.rank, rendezvous.world, base.device
        self._peft = inject(base.model, spec)
        self._model = CausalLoss(self._peft, base.dtype)
        self._factors = [factor for name, factor in self._peft.named_parameters() if ".lora_" in name]
        self._trainable = [factor for factor in self._factors if factor.requires_grad]
        with _start(zero.stage, rendezvous):
            self._deepspeed = _join_ranks(base.device, rendezvous)
            self._engine = self._initialize()

    def _initialize(self) -> Any:
        """DeepSpeed's engine for the lifetime of the process: stage 3 cannot shard the base model a second time."""
        size = sum(parameter.numel() for parameter in self._trainable)
        config = {
            "train_micro_batch_size_per_gpu": 1,  # for its statistics only
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,  # its default clips stage 0 to norm 1 after our own clip
            "zero_optimization": {
                "stage": self._zero.stage,
                "stage3_param_persistence_threshold": self._zero.persistence_threshold,
                "reduce_bucket_size": size,  # buffers are this large; the default is 2 GB
                "allgather_bucket_size": size,
            },
        }
        if self._zero.stage == 3:  # shard what is not sharded yet, one parameter after another
            self._deepspeed.zero.Init(module=self._model, config_dict_or_path=config)
            for buffer in self._model.buffers():
                buffer.data = buffer.data.to(self._device)
        optimizer = torch.optim.AdamW(self._trainable)
        engine, *_ = self._deepspeed.initialize(
            model=self._model, model_parameters=self._trainable, optimizer=optimizer, config=config
        )
        return engine

    def _whole(self, modified: bool) -> AbstractContextManager[None]:
        """Gather the whole factors on every rank, for the duration of a block."""
        rank = 0 if modified else None
        gathered: AbstractContextManager[None] = self._deepspeed.zero.GatheredParameters(
            self._factors, modifier_rank=rank, enabled=self._zero.stage == 3
        )
        return gathered

    def _load(self, adapter: Adapter) -> None:
        with self._whole(modified=True):
            load_adapter(self._peft, adapter)

    def _restart(self, adapter: Adapter, settings: TrainSettings) -> None:
        """Start from these factors with a fresh optimizer state."""
        self._load(adapter)
        optimizer = self._engine.optimizer
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group.update(lr=settings.learning_rate, weight_decay=settings.weight_decay)
        if self._zero.stage:
            optimizer.refresh_fp32_params()
            optimizer.clip_grad = settings.max_grad_norm

    def train(self, jobs: Sequence[MemberJob], tick: Tick = no_tick) -> list[Result]:
        """See `Engine`; one member after the other."""
        return one_by_one(jobs, lambda job: self._train(job, tick))

    def _train(self, job: MemberJob, tick: Tick) -> TrainOutcome:
        start = time.perf_counter()
        settings = job.settings
        self._restart(job.adapter, settings)
        shares, counts = [], []
        for step, batch in enumerate(job.batches):
            for group in self._engine.optimizer.param_groups:
                group["lr"] = settings.rate(step)
            tokens = sum(example.num_labels for example in batch)
            loss = self._engine(*self._share(batch)).sum() / tokens
            self._engine.backward(loss * self._world)  # DeepSpeed takes the mean of the ranks' gradients
            if not self._zero.stage:
                torch.nn.utils.clip_grad_norm_(self._trainable, settings.max_grad_norm)
            self._engine.step()
            shares.append(loss.detach().double())
            counts.append(tokens)
            tick()
        summed = torch.stack(shares)
        distributed.all_reduce(summed)
        losses = summed.tolist()
        require_finite(losses)
        with self._whole(modified=False):
            trained = read_adapter(self._peft)
        return TrainOutcome(trained, losses, sum(counts), time.perf_counter() - start)

    def _share(self, batch: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's rows; a rank without any gets a row without loss, since all must run the same collectives."""
        ids, labels = collate(batch[self._rank :: self._world] or batch[:1], self._device)
        return (ids, labels) if self._rank < len(batch) else (ids, labels.fill_(IGNORED))

    def losses(self, jobs: Sequence[LossJob], tick: Tick = no_tick) -> list[list[SequenceLoss]]:
        """See `Engine`; every rank computes all of them."""
        losses = []
        for job in jobs:
            self._load(job.adapter)
            losses.append(sequence_losses(self._model, job.examples, self._device))
            tick()
        return losses

    def close(self) -> None:
        """Leave the process group."""
        self._engine.destroy()
        self._deepspeed.comm.destroy_process_group()


class StackedRanks:
    """Stacked members on several ranks at stage 0, where the base model is not sharded.

    Either every rank trains members of its own, with no communication until all are done, or all ranks hold all members
    and each takes a share of the rows (data parallel): gradients are summed once per step.
    """

    def __init__(
        self, base: BaseModel, spec: LoraSpec, options: StackedOptions, rendezvous: Rendezvous, rows: bool
    ) -> None:
        """Meet the other ranks and put stacked factors into the base model, in place.

        Args:
            base: resident base model of this rank.
            spec: of every member's adapter.
            options: of the stacked step.
            rendezvous: where the ranks meet.
            rows: divide the rows of each member rather than the members.

        Raises:
            TrainingError: the ranks do not meet.
        """
        self._rank, self._world, self._rows = rendezvous.rank, rendezvous.world, rows
        with _start(0, rendezvous):
            self._deepspeed = _join_ranks(base.device, rendezvous)
            self._results = distributed.new_group(backend="gloo")  # of objects in host memory
        self._engine = StackedEngine(base, spec, options, self if rows else None)

    def train(self, jobs: Sequence[MemberJob], tick: Tick = no_tick) -> list[Result]:
        """See `Engine`."""
        if self._rows or self._world == 1:
            return self._engine.train(jobs, tick)
        own = self.share(jobs)
        trained = self._engine.train(own, tick) if own else []
        results = self._gather([by_itself(result) for result in trained], len(jobs))
        self._report_progress([len(job.batches) for job in jobs], tick)
        return results

    def answers(
        self, adapters: Sequence[Adapter], tokenizer: PreTrainedTokenizerBase, prompts: Prompts, max_tokens: int
    ) -> list[list[str]]:
        """See `AnsweringEngine`; every rank finds the same."""
        return self._engine.answers(adapters, tokenizer, prompts, max_tokens)

    def losses(self, jobs: Sequence[LossJob], tick: Tick = no_tick) -> list[list[SequenceLoss]]:
        """See `Engine`; every rank measures some of the jobs."""
        own = self.share(jobs)
        losses = self._gather(self._engine.losses(own, tick) if own else [], len(jobs))
        self._report_progress([1 for _ in jobs], tick)
        return losses

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's part of members, jobs or rows."""
        return items[self._rank :: self._world]

    def sum(self, tensor: torch.Tensor) -> None:
        """Add up a tensor of all ranks, in place."""
        distributed.all_reduce(tensor)

    def _gather(self, own: list[Item], total: int) -> list[Item]:
        """The results of all ranks, in the order of the items before `share`."""
        parts: list[list[Item]] = [[] for _ in range(self._world)]
        distributed.all_gather_object(parts, own, group=self._results)
        return [parts[index % self._world][index // self._world] for index in range(total)]

    def _report_progress(self, steps: Sequence[int], tick: Tick) -> None:
        """Report the progress of the other ranks, which is known only at the end."""
        for index, number in enumerate(steps):
            if index % self._world != self._rank:
                for _ in range(number):
                    tick()

    def close(self) -> None:
        """Leave the process group."""
        self._deepspeed.comm.destroy_process_group()


def by_itself(result: Result) -> Result:
    """A result with copied factors: pickling a view would write the whole memory that it is a view of."""
    if isinstance(result, TrainingError):
        return result
    return replace(result, adapter={key: factor.clone() for key, factor in result.adapter.items()})
