"""A contest's rows, and the losses of many adapters on them: what a validator's ballot holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError, ModelError, TrainingError
from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.foreign import padded
from flock_ray.lora.peft_io import LoraSpec
from flock_ray.lora.serialization import LORA_A, Adapter
from flock_ray.protocol.contest_scores import Row, row_micro_nats
from flock_ray.protocol.hashing import sha256
from flock_ray.training.data import IGNORED, Example
from flock_ray.training.engine import MemberJob, Tick, no_tick
from flock_ray.training.model import BaseModel
from flock_ray.training.shared_prefixes import num_different
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions


def contest_rows(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[Row, ...]:
    """What a contest commits to of its examples: digest, target tokens, bytes of the decoded targets.

    The digest is of token ids and labels, so tokenizer and template are bound in it.

    Args:
        examples: as they are scored.
        tokenizer: of the base model.
        name: of the data, for errors.

    Raises:
        DataError: a row has no targets; the text names its number only.
    """
    rows = []
    for number, example in enumerate(examples, start=1):
        targets = example.labels[1:]
        text = tokenizer.decode(targets[targets != IGNORED], skip_special_tokens=True)
        assert isinstance(text, str)
        if not example.num_labels or not text:
            raise DataError(f"{name}: row {number} has no target to score; a contest's rows all have one")
        digest = sha256(example.input_ids.numpy().tobytes() + example.labels.numpy().tobytes())
        rows.append(Row(digest, example.num_labels, len(text.encode())))
    return tuple(rows)


class RowScorer:
    """Measures adapters on rows: in float32, unmerged, several adapters in one pass over the resident base model.

    What rows begin with alike, such as a schema, is passed once for each adapter (`shared_prefixes.py`).
    An adapter's loss on a row depends on nothing else but for rounding: the same to 1e-6 nats a token whatever is
    measured with it.

    Attributes:
        rank: of the stacked factors.
        engine: over the resident base model; it can train as well.
    """

    def __init__(self, base: BaseModel, target_modules: tuple[str, ...], rank: int, max_tokens: int) -> None:
        """Put stacked factors into the base model, in place.

        Args:
            base: in float32.
            target_modules: layers that adapters may have.
            rank: largest rank of the adapters to come; smaller ones are filled up with zeros.
            max_tokens: most tokens of a pass.

        Raises:
            ModelError: the base model is not in float32, in which scores would depend on the batch.
        """
        if base.dtype != torch.float32:
            raise ModelError(f"a contest scores in float32, the base model is loaded in {base.dtype}; set model.dtype")
        self.rank, self._max_tokens = rank, max_tokens
        self.engine = StackedEngine(base, LoraSpec(rank, rank, target_modules), StackedOptions(max_tokens=max_tokens))

    def losses(
        self, adapters: Mapping[bytes, Adapter], rows: Sequence[Example], tick: Tick = no_tick
    ) -> dict[bytes, tuple[int, ...]]:
        """{payload: micro-nats of each row}; a row without a finite loss has the largest value.

        Args:
            adapters: {payload: adapter}, scaling 1, of any rank up to the scorer's.
            rows: at least one.
            tick: called once per adapter.
        """
        together = max(1, self._max_tokens // num_different(rows))
        payloads, found = list(adapters), dict[bytes, tuple[int, ...]]()
        for start in range(0, len(payloads), together):
            part = payloads[start : start + together]
            measured = self.engine.shared_losses([padded(adapters[payload], self.rank) for payload in part], rows)
            for payload, losses in zip(part, measured, strict=True):
                found[payload] = tuple(row_micro_nats(loss.nll) for loss in losses)
                tick()
        return found


def largest_rank(adapters: Sequence[Adapter]) -> int:
    """Largest rank of any factor."""
    return max(factor.shape[0] for adapter in adapters for key, factor in adapter.items() if key.endswith(LORA_A))


def train_snapshots(
    scorer: RowScorer, jobs: Sequence[MemberJob], after: Sequence[int], tick: Tick = no_tick
) -> list[list[Adapter]]:
    """Train nodes in one batch, each as if it were alone; {node: its adapter after so many steps, for each of `after`}.

    Adapters keep their rank, and are on the fixed-point grid, so that an alliance can start from the same bytes.

    Args:
        scorer: whose engine trains.
        jobs: each with as many steps.
        after: numbers of steps, ascending.
        tick: called once per step of a node.

    Raises:
        TrainingError: a node's loss or gradient is not finite.
    """
    ranks = [largest_rank([job.adapter]) for job in jobs]
    snapshots: list[list[Adapter]] = [[] for _ in jobs]
    done = 0

    def keep() -> None:
        nonlocal done
        done += 1
        tick()
        if done % len(jobs) == 0 and done // len(jobs) in after:
            for kept, adapter, rank in zip(snapshots, scorer.engine.adapters.read(), ranks, strict=True):
                kept.append(_on_grid(adapter, rank))

    full = [replace(job, adapter=padded(job.adapter, scorer.rank)) for job in jobs]
    for number, result in enumerate(scorer.engine.train(full, keep)):
        if isinstance(result, TrainingError):
            raise TrainingError(f"training node {number} of this batch: {result}")
    return snapshots


def _on_grid(adapter: Adapter, rank: int) -> Adapter:
    cut = {key: factor[:rank] if key.endswith(LORA_A) else factor[:, :rank] for key, factor in adapter.items()}
    try:
        return {key: dequantize(quantize(factor.contiguous())) for key, factor in sorted(cut.items())}
    except ValueError as error:
        raise TrainingError(f"an adapter has an entry beyond what a payload holds: {error}") from None
