"""`flock-ray demo`: `flock-ray alliance` with the larger or the smaller demonstration, whichever suits this machine.

Both are fixed and have names, so that a run can be repeated anywhere: `experiment=default` and `experiment=small`.
"""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.cluster.placement import available_cpus
from flock_ray.commands.alliance import run as run_alliance

LARGER, SMALLER = "default", "small"
FAST = 0.6e12
"""Operations a second, of all cores together, from which on the larger demonstration takes less than six minutes."""
_SIZE = 512  # of the products that are measured: about that of a step
_CORES = 2  # that a run on one machine uses


def run(overrides: Sequence[str]) -> int:
    """Choose an experiment, unless the command line does, and play it; returns the exit code."""
    if any(override.startswith(("experiment=", "resume=", "-")) for override in overrides):
        return run_alliance(overrides)
    dtype, rate = products_per_second(overrides)
    name = LARGER if rate >= FAST else SMALLER
    print(
        f"This machine does {rate / 1e12:.2f} TFLOP/s in {dtype}: experiment={name}"
        f" ({LARGER} is for {FAST / 1e12:g} or more)",
        flush=True,
    )
    return run_alliance([f"experiment={name}", *overrides])


def products_per_second(overrides: Sequence[str]) -> tuple[str, float]:
    """The type of the weights, and the measured operations a second of matrix products in it on the run's cores."""
    import torch

    from flock_ray.training.flops import gemm_rate
    from flock_ray.training.model import choose_dtype

    asked = next((override.partition("=")[2] for override in overrides if override.startswith("model.dtype=")), "auto")
    dtype = choose_dtype(asked, "cpu")
    torch.set_num_threads(1)
    [rate] = gemm_rate(dtype, torch.device("cpu"), [_SIZE], repeats=20).values()
    return str(dtype).removeprefix("torch."), rate * min(_CORES, available_cpus())
