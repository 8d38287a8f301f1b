"""Local training on a GPU: many members in one batch against adapters swapped in turn, for Llama shapes of 1B and 8B.

Random weights: speed does not depend on what they are. Contenders and measures are those of `training_throughput`.
Overrides: `shapes=[llama_1b]` for one of them, `shapes=[tiny] device=cpu` to try the script without a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.common import environment, store
from benchmarks.training_throughput import (
    SETTINGS,
    Contender,
    faster_loop,
    in_turn,
    jobs,
    stacked,
    summary,
    timed,
)
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.training.flops import FlopCounter, gemm_rate
from flock_ray.training.model import BaseModel
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions

SPEC = LoraSpec(16, 32, ("all-linear",))
SHAPES: dict[str, dict[str, int]] = {
    "llama_1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256},
    "llama_8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 49_152},
}  # fmt: skip
POINTS: dict[str, tuple[tuple[int, int], ...]] = {
    "llama_1b": ((1, 256), (8, 64), (8, 256), (16, 256), (32, 256), (8, 1024), (16, 1024)),
    "llama_8b": ((1, 1024), (8, 256), (4, 1024), (8, 1024)),
    "tiny": ((1, 64), (4, 64)),
}
"""K and tokens a member-step."""


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


def measure(shape: str, device: torch.device, rounds: int, steps: int) -> dict[str, Any]:
    """All points of a shape: ours, ours with compiled layers, and one member's turn of the others, in turn."""
    model = random_base(shape, device)
    flops = FlopCounter.of(model, SPEC.target_modules, SPEC.rank)
    adapter = initial_adapter(adapter_shapes(model, SPEC.target_modules, SPEC.rank), seed=1)
    size = sum(parameter.numel() for parameter in model.parameters())
    base = BaseModel(model, None, shape, b"", torch.bfloat16, size, device)  # type: ignore[arg-type]  # no tokenizer
    engine = StackedEngine(base, SPEC, StackedOptions())
    loop = faster_loop(lambda: random_base(shape, device), SPEC, jobs(1, 64, adapter, 2)[0])
    peft = loop.fresh()
    rates = gemm_rate(torch.bfloat16, device, (4096, 8192) if device.type == "cuda" else (256,))
    rate = max(rates.values())
    timer = timed_on_gpu if device.type == "cuda" else timed
    points = []
    for compiled in (False, True):
        if compiled:
            for layer in model.get_decoder().layers:
                layer.compile(dynamic=False)
        for members, tokens in POINTS[shape]:
            many, [one] = jobs(members, tokens, adapter, steps), jobs(1, tokens, adapter, steps)
            contenders: dict[str, Contender] = {"stacked": lambda many=many: stacked(engine, many)}
            if not compiled:
                contenders |= {
                    "swap": lambda one=one: loop.swap(peft, one),
                    "peft": lambda one=one: loop.steps(peft, one),
                }
            try:
                in_turn(contenders, 1, timer)  # warm up
                found = in_turn(contenders, rounds, timer)
            except torch.OutOfMemoryError:
                points.append({"members": members, "tokens": tokens, "compiled": compiled, "out_of_memory": True})
                continue
            work = flops.training([tokens] * steps, (tokens - 1) * steps)
            shown = {
                name: summary(each, work * (members if name == "stacked" else 1), rate) for name, each in found.items()
            }
            points.append({"members": members, "tokens": tokens, "compiled": compiled, **shown})
            ours = shown["stacked"]
            print(f"{shape} K={members} tokens={tokens} compiled={compiled}:"
                  f" {ours['useful_tokens_per_second']:.0f} tokens/s, MFU {ours['mfu']:.2f}", flush=True)  # fmt: skip
    return {"gemm_flops_per_second": rates, "autocast_of_others": loop.autocast, "points": points}


def headline(shapes: dict[str, Any]) -> dict[str, float]:
    """Best MFU at 8B, and the best ratio to swapping at 1B and 256 tokens a member-step."""
    figures: dict[str, float] = {}
    for shape, found in shapes.items():
        done = [point for point in found["points"] if "stacked" in point]
        figures[f"mfu_{shape.removeprefix('llama_')}"] = max(point["stacked"]["mfu"] for point in done)
        swap = {p["tokens"]: p["swap"]["useful_tokens_per_second"] for p in done if "swap" in p}
        for tokens in swap:
            best = max(p["stacked"]["useful_tokens_per_second"] for p in done if p["tokens"] == tokens)
            figures[f"swap_ratio_{shape.removeprefix('llama_')}_t{tokens}"] = best / swap[tokens]
    return figures


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store."""
    settings = OmegaConf.merge(
        {"shapes": ["llama_1b", "llama_8b"], "device": "cuda"}, OmegaConf.from_dotlist(list(overrides))
    )
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: training_gpu needs a GPU; torch sees none (try: 'shapes=[tiny]' device=cpu)")
    result: dict[str, Any] = {
        "environment": environment(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "lora": {"rank": SPEC.rank, "alpha": SPEC.alpha, "target_modules": SPEC.target_modules},
        "local_steps": SETTINGS.steps,
        "shapes": {},
    }
    for shape in settings.shapes:
        result["shapes"][shape] = measure(shape, device, 1 if quick else 5, 2 if quick else SETTINGS.steps)
        result["headline"] = headline(result["shapes"])
        store("training_gpu", result, quick or device.type != "cuda")
    for name, value in result["headline"].items():
        print(f"{name}: {value:.3g}")
