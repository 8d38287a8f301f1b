"""One step of the model: chunks of many rows in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch

from flock_ray.serving.kv_cache import Chunk, KvCache, Step
from flock_ray.serving.slots import AdapterSlots
from flock_ray.training.model import BaseModel


class Decoder:
    """A base model with adapter slots and a cache of keys and values; one thread computes.

    Attributes:
        slots: of adapters.
        cache: of rows.
    """

    def __init__(
        self, base: BaseModel, target_modules: Sequence[str], rank: int, adapters: int, rows: int, positions: int
    ) -> None:
        """Put all into the base model, in place, and move it to its device.

        Args:
            base: used by nobody else from now on.
            target_modules: layers that adapters may have.
            rank: largest rank of the adapters to come.
            adapters: how many are resident.
            rows: at the same time.
            positions: longest row.

        Raises:
            ModelError: a target module does not exist, or the model's attention is of a kind that is not served.
        """
        self._model = base.model.to(base.device).eval()
        self._device = base.device
        self.cache = KvCache(self._model, rows, positions)
        self.slots = AdapterSlots(self._model, target_modules, rank, adapters)

    def step(self, chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        """Compute chunks, keep their keys and values.

        Args:
            chunks: of different rows.

        Returns:
            For each chunk [logits, vocabulary] float32 on the CPU, of its last tokens.
        """
        order = sorted(range(len(chunks)), key=lambda number: (chunks[number].adapter, number))
        ordered = [chunks[number] for number in order]
        counts = [
            (adapter, sum(len(chunk.tokens) for chunk in some))
            for adapter, some in groupby(ordered, key=lambda chunk: chunk.adapter)
        ]
        wanted, end = list[int](), 0
        for chunk in ordered:
            end += len(chunk.tokens)
            wanted += range(end - chunk.logits, end)
        with torch.inference_mode():
            step = Step.of(self.cache, ordered)
            self.slots.route.set(counts, self._device)
            ids = torch.tensor([token for chunk in ordered for token in chunk.tokens]).to(self._device)
            logits = self._model(
                input_ids=ids[None],
                position_ids=step.positions[None],
                step=step,
                use_cache=False,
                logits_to_keep=torch.tensor(wanted, dtype=torch.long, device=self._device),
            ).logits[0]
            parts = logits.float().cpu().split([chunk.logits for chunk in ordered])
        return [part for _, part in sorted(zip(order, parts, strict=True), key=lambda one: one[0])]
