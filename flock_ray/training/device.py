"""How a process computes on its device: reproducibly, and without fragmenting a GPU's memory."""

from __future__ import annotations

import torch

GPU_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # required by deterministic algorithms
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # batches of many sizes do not fragment memory
}
"""Environment variables that must be set before a process computes on a GPU."""


def set_deterministic(deterministic: bool) -> None:
    """Make torch use deterministic algorithms only, or the fastest ones."""
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time only


def num_gpus() -> int:
    """GPUs that torch sees here."""
    return torch.cuda.device_count()
