"""Local training on a GPU: many members in one batch against adapters swapped in turn, for Llama shapes of 1B and 8B.

Random weights: speed does not depend on what they are. Contenders and measures are those of `training_throughput`.
The last point of a shape is measured once more with deterministic algorithms, as nodes train by default. Overrides:
`shapes=[llama_1b]` for one of them, `shapes=[tiny] device=cpu` to try the script without a GPU.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.common import environment, step, store, tell
from benchmarks.training_throughput import (
    SETTINGS,
    Contender,
    faster_loop,
    in_turn,
    jobs,
    stacked,
    summary,
    timed,
    twin,
)
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.training.device import GPU_ENVIRONMENT, set_deterministic
from flock_ray.training.flops import FlopCounter, gemm_rate
from flock_ray.training.model import BaseModel
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions

SPEC = LoraSpec(16, 32, ("all-linear",))
ROUNDS = 3
SHAPES: dict[str, dict[str, int]] = {
    "llama_1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256},
    "llama_8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 49_152},
}  # fmt: skip
POINTS: dict[str, tuple[tuple[int, int], ...]] = {
    "llama_1b": ((1, 64), (1, 256), (8, 64), (8, 256), (32, 256), (8, 1024)),
    "llama_8b": ((1, 1024), (8, 256), (4, 1024), (8, 1024)),
    "tiny": ((1, 64), (4, 64)),
}
"""K and tokens a member-step."""
COMPILED: dict[str, tuple[tuple[int, int], ...]] = {
    "llama_1b": ((8, 64), (8, 256), (32, 256), (8, 1024)),
    "llama_8b": ((8, 256), (4, 1024), (8, 1024)),
    "tiny": ((4, 64),),
}
"""Those measured with compiled layers too."""
QUICK = 2  # points of a shape, one of them compiled


def random_base(shape: str, device: torch.device) -> PreTrainedModel:
    """Frozen, in bfloat16, made on the device."""
    config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=8192)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.set_attn_implementation("sdpa")
    return model.requires_grad_(False)


def timed_on_gpu(contender: Contender) -> dict[str, float]:
    """As `timed`, to the end of the device's work, with the device's peak memory."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    resident, cpu, wall = torch.cuda.memory_allocated(), time.process_time(), time.perf_counter()
    tokens = contender()
    torch.cuda.synchronize()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "tokens": tokens,
        "peak_mb": (torch.cuda.max_memory_allocated() - resident) / 1e6,
    }


class Bench:
    """One shape's models over the same weights in memory: a PEFT one for `swap` and `peft`, and a stacked one."""

    def __init__(self, shape: str, device: torch.device, steps: int) -> None:
        """Make them, measure the device; members take so many local steps."""
        with step(f"{shape}: making the model"):
            model = random_base(shape, device)
        self.steps, self.timer = steps, timed_on_gpu if device.type == "cuda" else timed
        self.flops = FlopCounter.of(model, SPEC)
        self.adapter = initial_adapter(adapter_shapes(model, SPEC.target_modules, SPEC.rank), seed=1)
        with step(f"{shape}: how the others cast best"):
            self.loop = faster_loop(lambda: twin(model), SPEC, jobs(1, 64, self.adapter, 2)[0], device.type, self.timer)
            self.peft = self.loop.fresh()
        with step(f"{shape}: matrix products"):
            self.rates = gemm_rate(torch.bfloat16, device, (4096, 8192) if device.type == "cuda" else (256,))
        size = sum(parameter.numel() for parameter in model.parameters())
        base = BaseModel(model, None, shape, b"", torch.bfloat16, size, device, Path())  # type: ignore[arg-type]  # no tokenizer
        self.engine = StackedEngine(base, SPEC, StackedOptions())

    def compile(self) -> None:
        """Compile the stacked model's layers anew, as `StackedOptions.compiled`."""
        torch.compiler.reset()  # no shape is left out since others were compiled before
        self.engine.compile()

    def point(self, members: int, tokens: int, rounds: int, others: bool) -> dict[str, Any]:
        """K members in one batch, and one member's turn of the others, in turn."""
        many, [one] = jobs(members, tokens, self.adapter, self.steps), jobs(1, tokens, self.adapter, self.steps)
        contenders: dict[str, Contender] = {"stacked": lambda: stacked(self.engine, many)}
        if others:
            contenders |= {
                "swap": lambda: self.loop.swap(self.peft, one),
                "peft": lambda: self.loop.steps(self.peft, one),
            }
        try:
            in_turn("warming up", contenders, 1, self.timer)
            found = in_turn(f"{members} x {tokens} tokens", contenders, rounds, self.timer)
        except torch.OutOfMemoryError:
            return {"out_of_memory": True}
        work, rate = self.flops.training([tokens] * self.steps, (tokens - 1) * self.steps), max(self.rates.values())
        return {name: summary(each, work * (members if name == "stacked" else 1), rate) for name, each in found.items()}


def measure(shape: str, device: torch.device, quick: bool) -> Iterator[dict[str, Any]]:
    """What is known of a shape after each point."""
    bench = Bench(shape, device, 2 if quick else SETTINGS.steps)
    points: list[dict[str, Any]] = []
    plain, compiled_too = (POINTS[shape][:QUICK], POINTS[shape][:1]) if quick else (POINTS[shape], COMPILED[shape])
    plan = [(False, False, point) for point in plain] + [(True, False, point) for point in compiled_too]
    for compiled, deterministic, (members, tokens) in [*plan, (True, True, compiled_too[-1])]:
        if compiled:
            bench.compile()
        set_deterministic(deterministic)
        gc.collect()
        torch.cuda.empty_cache()
        how = {"members": members, "tokens": tokens, "compiled": compiled, "deterministic": deterministic}
        with step(f"{shape} {how}"):
            found = bench.point(members, tokens, 1 if quick else ROUNDS, not compiled)
        points.append({**how, **found})
        shown = [f"{name} {one['useful_tokens_per_second']:.0f} tokens/s, MFU {one['mfu']:.2f}"
                 for name, one in found.items() if name != "out_of_memory"]  # fmt: skip
        tell(f"{shape} {how}: {', '.join(shown) or 'out of memory'}")
        yield {"gemm_flops_per_second": bench.rates, "autocast_of_others": bench.loop.autocast, "points": points}
    set_deterministic(False)


def headline(shapes: dict[str, Any]) -> dict[str, float]:
    """MFU of each shape's best point, and the best ratio to swapping at so many tokens a member-step.

    The swapped member is the same at every point of so many tokens: its median counts. Compiled points are apart.
    """
    figures: dict[str, float] = {}
    for shape, found in shapes.items():
        name = shape.removeprefix("llama_")
        done = [point for point in found["points"] if "stacked" in point and not point["deterministic"]]
        for compiled, suffix in ((False, ""), (True, "_compiled")):
            points = [point for point in done if point["compiled"] is compiled]
            if points:
                figures[f"mfu_{name}{suffix}"] = max(point["stacked"]["mfu"] for point in points)
            for tokens in sorted({point["tokens"] for point in points}):
                best = max(p["stacked"]["useful_tokens_per_second"] for p in points if p["tokens"] == tokens)
                swap = [p["swap"]["useful_tokens_per_second"] for p in done if "swap" in p and p["tokens"] == tokens]
                if swap:
                    figures[f"swap_ratio_{name}_t{tokens}{suffix}"] = best / median(swap)
    return figures


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store."""
    settings = OmegaConf.merge(
        {"shapes": ["llama_1b"] if quick else ["llama_1b", "llama_8b"], "device": "cuda"},
        OmegaConf.from_dotlist(list(overrides)),
    )
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: training_gpu needs a GPU; torch sees none (try: 'shapes=[tiny]' device=cpu)")
    os.environ |= GPU_ENVIRONMENT
    result: dict[str, Any] = {
        "environment": environment(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "lora": {"rank": SPEC.rank, "alpha": SPEC.alpha, "target_modules": SPEC.target_modules},
        "local_steps": SETTINGS.steps,
        "shapes": {},
    }
    for shape in settings.shapes:
        for found in measure(shape, device, quick):
            result["shapes"][shape] = found
            result["headline"] = headline(result["shapes"])
            store("training_gpu", result, quick or device.type != "cuda")
    for name, value in result["headline"].items():
        print(f"{name}: {value:.3g}")
