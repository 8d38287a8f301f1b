"""How a process computes on its device: the same twice, and without holes in a GPU's memory."""

from __future__ import annotations

import torch

GPU_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic algorithms ask for it
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # batches of many sizes leave no holes in memory
}
"""What a process that computes on a GPU has in its environment before the first product."""


def set_deterministic(deterministic: bool) -> None:
    """Have torch take deterministic algorithms, or whichever is fastest."""
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time only
