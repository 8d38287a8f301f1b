"""Floating-point operations of LoRA training, and the share of the device's rate that they make use of (MFU).

A multiply-add counts as two. The frozen base costs 2 a weight and token forward and 2 backward (to its inputs; no
gradient of weights), factors 2 forward and 4 backward, frozen ones 2 backward. Embeddings are look-ups; the output head
is counted for labelled tokens only; attention looks at half of the square. Recomputation, optimizer and element-wise
work do not count as use.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.lora.serialization import LORA_A

GEMM_SIZES = {"cpu": (1024,), "cuda": (4096, 8192)}
"""Sizes of the square products that a node times when it loads: large enough for the full rate, and still quick."""


@dataclass(frozen=True)
class FlopCounter:
    """The sizes of a model that determine the cost of a token.

    Attributes:
        linear_weights: of all linear layers but the output head.
        head_weights: vocabulary x width.
        adapter_weights: of one member's adapter.
        attention_width: layers x heads x width of a head.
        frozen_weights: of the adapter, those that do not train.
    """

    linear_weights: int
    head_weights: int
    adapter_weights: int
    attention_width: int
    frozen_weights: int = 0

    @classmethod
    def of(cls, model: PreTrainedModel, spec: LoraSpec) -> FlopCounter:
        """Read the sizes off a base model without adapter layers; its weights may be sharded."""
        config, head = model.config, model.get_output_embeddings()
        layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
        linear = sum(layer.in_features * layer.out_features for layer in layers)
        sizes = {key: math.prod(s) for key, s in adapter_shapes(model, spec.target_modules, spec.rank).items()}
        frozen = sum(size for key, size in sizes.items() if spec.freeze_a and key.endswith(LORA_A))
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention = config.num_hidden_layers * config.num_attention_heads * head_width
        return cls(linear, head.in_features * head.out_features, sum(sizes.values()), attention, frozen)

    def training(self, lengths: Iterable[int], num_labels: int) -> int:
        """Operations of forward and backward over sequences of these lengths with `num_labels` labels in total."""
        sizes = list(lengths)
        tokens, pairs = sum(sizes), sum(size * size for size in sizes)
        per_token = 4 * self.linear_weights + 6 * self.adapter_weights - 2 * self.frozen_weights
        return per_token * tokens + 4 * self.head_weights * num_labels + 6 * self.attention_width * pairs


def mfu(flops: float, seconds: float, rate: float) -> float:
    """Model FLOPs utilisation: `flops` done in `seconds` on a device that does `rate` a second, as a share of 1."""
    return flops / seconds / rate


def gemm_rate(
    dtype: torch.dtype, device: torch.device, sizes: Iterable[int] | None = None, repeats: int = 5
) -> dict[int, float]:
    """Measured operations per second of square matrix products, the fastest of `repeats`, by size."""
    rates = {}
    for size in sizes or GEMM_SIZES[device.type]:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        _product_seconds(left, right)
        rates[size] = 2 * size**3 / min(_product_seconds(left, right) for _ in range(repeats))
    return rates


def _product_seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(left, right)
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
