"""Local training of K members on one device: reload per member, one base swapped, plain PEFT, and all in one batch.

Everybody takes the same local steps over the same tokens, from the same adapters, with AdamW and clipping. `reload`
makes base model, adapter and optimizer anew for every member, `swap` copies adapters in and out of one resident PEFT
model, `peft` is that model's loop over one member, `stacked` is this project's cohort. Members of `reload` and `swap`
come one after the other, so a round times one of them, whatever K. The others may cast as they like best: with PEFT's
own casts or under autocast, whichever is faster here. Contenders take turns; ratios are of medians. Imports and the
packaged model's first conversion are not counted. Needs no Ray. Takes about half an hour on two cores and stores each
section as it is done; `only=float32` measures that section anew and keeps the others. `training_gpu` is the same on a
GPU.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median, stdev
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.common import earlier_result, environment, store
from benchmarks.peers.local_loops import PeftLoop
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.lora.serialization import Adapter
from flock_ray.training import attention
from flock_ray.training.data import IGNORED, Example
from flock_ray.training.engine import MemberJob, TrainOutcome, TrainSettings
from flock_ray.training.flops import FlopCounter, gemm_rate, mfu
from flock_ray.training.model import BaseModel, ModelSpec, load_base, prepare_packaged
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions

SPEC = LoraSpec(8, 16, ("all-linear",))
SETTINGS = TrainSettings(steps=10, batch_size=1, learning_rate=1e-4, weight_decay=0.01, max_grad_norm=1.0)
MEMBERS, TOKENS, ROUNDS = 8, (64, 256), 5
SEARCH = ((4, 256), (16, 64), (16, 128), (32, 64))
"""K and tokens a member-step that the best point is looked for among, besides those of the comparison."""
GEMM_SIZES = (1024, 2048, 4096)
CPU = torch.device("cpu")
OURS, OURS_COMPILED = f"stacked_k{MEMBERS}", f"stacked_k{MEMBERS}_compiled"

Contender = Callable[[], int]
"""Trains; returns how many labelled tokens it trained on."""


def base_model(dtype: torch.dtype) -> BaseModel:
    """A base of its own for a contender."""
    return load_base(ModelSpec("packaged", "", "main", str(dtype).removeprefix("torch."), "cpu"))


def from_files(dtype: torch.dtype) -> PreTrainedModel:
    """As a PEFT user loads it, with the attention that is faster on CPUs."""
    return AutoModelForCausalLM.from_pretrained(prepare_packaged(), dtype=dtype, attn_implementation="eager")


def jobs(members: int, tokens: int, adapter: Adapter, steps: int) -> list[MemberJob]:
    """Members of one sequence a step, every token of it labelled; what the tokens are does not matter for speed."""
    drawn = torch.Generator().manual_seed(0)
    settings = TrainSettings(steps, 1, SETTINGS.learning_rate, SETTINGS.weight_decay, SETTINGS.max_grad_norm)

    def example() -> Example:
        return Example.of(torch.randint(3, 49_000, (tokens,), generator=drawn).tolist(), [True] * tokens)

    return [MemberJob(adapter, [[example()] for _ in range(steps)], settings) for _ in range(members)]


def stacked(engine: StackedEngine, members: Sequence[MemberJob]) -> int:
    """All members at once; every one must get through."""
    results = engine.train(members)
    assert all(isinstance(result, TrainOutcome) for result in results)
    return sum(result.num_tokens for result in results if isinstance(result, TrainOutcome))


def resident_mb(field: str) -> float:
    """VmRSS or VmHWM (the peak) of this process, in MB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1000


def timed(contender: Contender) -> dict[str, float]:
    """Wall and CPU seconds, labelled tokens, and peak memory above what was resident before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    resident, cpu, wall = resident_mb("VmRSS"), time.process_time(), time.perf_counter()
    tokens = contender()
    seconds = time.perf_counter() - wall
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "tokens": tokens,
        "peak_mb": resident_mb("VmHWM") - resident,
    }


def in_turn(
    contenders: dict[str, Contender], rounds: int, measure: Callable[[Contender], dict[str, float]] = timed
) -> dict[str, list[dict[str, float]]]:
    """A B C A B C ..."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            found[name].append(measure(contender))
    return found


def summary(rounds: list[dict[str, float]], flops: int, rate: float) -> dict[str, Any]:
    """Median and spread of one contender; `flops` of one round."""
    seconds = [one["seconds"] for one in rounds]
    middle, tokens = median(seconds), rounds[0]["tokens"]
    return {
        "rounds": rounds,
        "seconds_median": middle,
        "seconds_stdev": stdev(seconds) if len(seconds) > 1 else 0.0,
        "useful_tokens_per_second": tokens / middle,
        "useful_tokens_per_cpu_second": tokens / median(one["cpu_seconds"] for one in rounds),
        "mfu": mfu(flops, middle, rate),
        "peak_mb_above_resident": max(one["peak_mb"] for one in rounds),
    }


def faster_loop(
    load: Callable[[], PreTrainedModel],
    spec: LoraSpec,
    job: MemberJob,
    measure: Callable[[Contender], dict[str, float]] = timed,
) -> PeftLoop:
    """The others' loop with the casts that suit this device."""
    seconds: dict[PeftLoop, float] = {}
    for autocast in (False, True):
        loop = PeftLoop(load, spec, autocast)
        model = loop.fresh()
        train: Contender = partial(loop.steps, model, job)
        train()
        seconds[loop] = measure(train)["seconds"]
    return min(seconds, key=seconds.__getitem__)


class Bench:
    """One type's resident models: a PEFT one for `swap` and `peft`, a stacked one, in bfloat16 a compiled one too."""

    def __init__(self, dtype: torch.dtype, steps: int) -> None:
        """Load them, measure the device; members take so many local steps."""
        self.dtype, self.steps = dtype, steps
        base = base_model(dtype)
        self.flops = FlopCounter.of(base.model, SPEC.target_modules, SPEC.rank)
        self.adapter = initial_adapter(adapter_shapes(base.model, SPEC.target_modules, SPEC.rank), seed=1)
        self.engine = StackedEngine(base, SPEC, StackedOptions())
        self.compiled = StackedEngine(base_model(dtype), SPEC, StackedOptions(compiled=True))
        [job] = jobs(1, TOKENS[0], self.adapter, 2)
        self.loop = faster_loop(lambda: from_files(dtype), SPEC, job)
        self.peft = self.loop.fresh()
        self.rates = gemm_rate(dtype, CPU, GEMM_SIZES)

    def work(self, members: int, tokens: int, steps: int) -> int:
        """Operations of the local training of so many members."""
        return self.flops.training([tokens] * members * steps, (tokens - 1) * members * steps)

    def compare(self, tokens: int, rounds: int) -> dict[str, Any]:
        """All contenders at so many tokens a member-step."""
        [job], many = jobs(1, tokens, self.adapter, self.steps), jobs(MEMBERS, tokens, self.adapter, self.steps)
        contenders: dict[str, Contender] = {
            "reload": lambda: self.loop.reload(job),
            "swap": lambda: self.loop.swap(self.peft, job),
            "peft": lambda: self.loop.steps(self.peft, job),
            "stacked_k1": lambda: stacked(self.engine, [job]),
            OURS: lambda: stacked(self.engine, many),
        }
        self.loop.steps(self.peft, jobs(1, tokens, self.adapter, 2)[0])  # warm up
        for members in (1, MEMBERS):
            stacked(self.engine, jobs(members, tokens, self.adapter, 2))
        if self.dtype == torch.bfloat16:
            began = time.perf_counter()
            stacked(self.compiled, jobs(MEMBERS, tokens, self.adapter, 1))
            print(f"compiled in {time.perf_counter() - began:.0f} s", flush=True)
            contenders[OURS_COMPILED] = lambda: stacked(self.compiled, many)
        found = in_turn(contenders, rounds)
        for size, rate in gemm_rate(self.dtype, CPU, GEMM_SIZES).items():
            self.rates[size] = max(rate, self.rates[size])
        works = {
            name: self.work(MEMBERS if name in (OURS, OURS_COMPILED) else 1, tokens, self.steps) for name in contenders
        }
        points = {name: summary(found[name], works[name], max(self.rates.values())) for name in contenders}
        for name, one in points.items():
            speed, share = one["useful_tokens_per_second"], one["mfu"]
            print(f"{self.dtype}, {tokens} tokens, {name}: {speed:.0f} tokens/s, MFU {share:.2f}", flush=True)
        return points


def search(bench: Bench, points: Sequence[tuple[int, int]], steps: int) -> list[dict[str, Any]]:
    """Speed of the cohort at other points."""
    found = []
    for members, tokens in points:
        drawn = jobs(members, tokens, bench.adapter, steps)
        stacked(bench.engine, jobs(members, tokens, bench.adapter, 1))
        one = [timed(lambda drawn=drawn: stacked(bench.engine, drawn)) for _ in range(3)]
        result = summary(one, bench.work(members, tokens, steps), max(bench.rates.values()))
        found.append({"members": members, "tokens": tokens, **result})
        print(f"K={members} tokens={tokens}: MFU {result['mfu']:.2f}", flush=True)
    return found


def half_labelled(members: Sequence[MemberJob]) -> list[MemberJob]:
    """The same sequences, the first half of each a prompt without loss."""

    def cut(example: Example) -> Example:
        size = len(example.input_ids)
        return Example.of(example.input_ids.tolist(), [position >= size // 2 for position in range(size)])

    return [MemberJob(m.adapter, [[cut(e) for e in batch] for batch in m.batches], m.settings) for m in members]


def ragged(members: Sequence[MemberJob]) -> list[MemberJob]:
    """The same number of tokens, each member's cut into a long and a short sequence of sizes of its own."""

    def cut(example: Example, member: int) -> list[Example]:
        size = len(example.input_ids) * (member + 2) // (2 * len(members) + 2)
        return [Example.of(ids, [True] * len(ids)) for ids in (example.input_ids.tolist()[:size],
                                                              example.input_ids.tolist()[size:])]  # fmt: skip

    return [MemberJob(m.adapter, [cut(b[0], k) for b in m.batches], m.settings) for k, m in enumerate(members)]


class PaddedEngine(StackedEngine):
    """Without packing: every sequence filled up to the longest of the batch."""

    def _sequence_losses(self, batches: Sequence[Sequence[Example]]) -> list[torch.Tensor]:
        longest = max(len(example.input_ids) for batch in batches for example in batch)
        return super()._sequence_losses([[fill(example, longest) for example in batch] for batch in batches])


def fill(example: Example, longest: int) -> Example:
    """A sequence with tokens without loss at its end."""
    missing = longest - len(example.input_ids)
    mask = [label != IGNORED for label in example.labels.tolist()]
    return Example.of(example.input_ids.tolist() + [0] * missing, mask + [False] * missing)


def ablation(bench: Bench, rounds: int, steps: int) -> dict[str, Any]:
    """Each switch of the step against the step without it, at 8 x 64 tokens; gain is time without over time with."""
    dtype, default = bench.dtype, bench.engine
    members = jobs(MEMBERS, TOKENS[0], bench.adapter, steps)
    prompts, uneven = half_labelled(members), ragged(members)

    def engine(**switches: Any) -> StackedEngine:
        return StackedEngine(base_model(dtype), SPEC, StackedOptions(**switches))

    all_logits = engine(chunk_tokens=None)
    all_logits.loss.whole_logits = True
    from_inputs = base_model(dtype)
    from_inputs.model.enable_input_require_grads()
    below = StackedEngine(from_inputs, SPEC, StackedOptions())
    padded = PaddedEngine(base_model(dtype), SPEC, StackedOptions())
    whole, grouped, checkpointing = engine(chunk_tokens=None), engine(grouped=True), engine(checkpointing=True)
    variants: dict[str, Contender] = {
        "default": lambda: stacked(default, members),
        "all_logits_at_once": lambda: stacked(whole, members),
        "fused_attention": lambda: with_fused_attention(lambda: stacked(default, members)),
        "gradient_to_embeddings": lambda: stacked(below, members),
        "checkpointing": lambda: stacked(checkpointing, members),
        "compiled": lambda: stacked(bench.compiled, members),
        "half_labelled": lambda: stacked(default, prompts),
        "half_labelled_all_logits": lambda: stacked(all_logits, prompts),
        "uneven": lambda: stacked(default, uneven),
        "uneven_padded": lambda: stacked(padded, uneven),
        "uneven_grouped": lambda: stacked(grouped, uneven),
    }
    for variant in variants.values():
        variant()
    found = in_turn(variants, rounds)
    seconds = {name: median(one["seconds"] for one in each) for name, each in found.items()}
    peaks = {name: max(one["peak_mb"] for one in each) for name, each in found.items()}
    return {
        "seconds_median": seconds,
        "peak_mb_above_resident": peaks,
        "gain": {
            "chunked_cross_entropy": seconds["all_logits_at_once"] / seconds["default"],
            "logits_only_where_labelled": seconds["half_labelled_all_logits"] / seconds["half_labelled"],
            "sequence_packing": seconds["uneven_padded"] / seconds["uneven"],
            "explicit_attention": seconds["fused_attention"] / seconds["default"],
            "no_gradient_below_first_layer": seconds["gradient_to_embeddings"] / seconds["default"],
            "compiled_layers": seconds["default"] / seconds["compiled"],
            "grouped_instead_of_stacked": seconds["uneven"] / seconds["uneven_grouped"],
            "checkpointing": seconds["default"] / seconds["checkpointing"],
            "checkpointing_memory": peaks["default"] / peaks["checkpointing"],
        },
    }


def with_fused_attention(contender: Contender) -> int:
    """Run with torch's fused kernel also for short sequences."""
    usual, attention.EXPLICIT_LENGTH = attention.EXPLICIT_LENGTH, 0
    try:
        return contender()
    finally:
        attention.EXPLICIT_LENGTH = usual


def ratios(points: dict[str, Any]) -> dict[str, float]:
    """Useful tokens a second of all members in one batch over those of the others."""
    figures: dict[str, float] = {}
    for tokens, point in points.items():
        speed = {name: float(one["useful_tokens_per_second"]) for name, one in point.items()}
        for name in ("swap", "reload"):
            figures[f"{name}_ratio_k{MEMBERS}_t{tokens}"] = speed[OURS] / speed[name]
            if OURS_COMPILED in speed:
                figures[f"{name}_ratio_k{MEMBERS}_t{tokens}_compiled"] = speed[OURS_COMPILED] / speed[name]
    return figures


def headline(result: dict[str, Any]) -> dict[str, float]:
    """The figures that count as far as they are there, in bfloat16 unless they say otherwise."""
    found = result["bfloat16"]
    points = found["points"]
    short = points[str(TOKENS[0])]
    speed = {name: float(one["useful_tokens_per_second"]) for name, one in short.items()}
    every = [one["mfu"] for one in [*found["search"], *(one for point in points.values() for one in point.values())]]
    exact = result.get("float32", {}).get("points", {})
    figures = {f"{name}_float32": value for name, value in ratios(exact).items()}
    if exact:
        figures["gemm_fraction_float32"] = max(one["mfu"] for point in exact.values() for one in point.values())
    return {
        **ratios(points),
        **figures,
        "gemm_fraction_best": max(every),
        "gemm_tflops_per_second": max(found["gemm_flops_per_second"].values()) / 1e12,
        "k1_vs_peft_ratio": speed["stacked_k1"] / speed["peft"],
        f"tokens_per_second_k{MEMBERS}_t{TOKENS[0]}": speed[OURS],
    }


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store."""
    if list(overrides) == ["only=float32"]:
        return measure_float32(earlier_result("training_throughput", quick), quick)
    if overrides:
        raise SystemExit("error: training_throughput takes one override, only=float32")
    result: dict[str, Any] = {
        "environment": environment(),
        "model": "SmolLM2-135M-Instruct",
        "lora": {"rank": SPEC.rank, "alpha": SPEC.alpha, "target_modules": SPEC.target_modules},
        "local_steps": 2 if quick else SETTINGS.steps,
        "threads": torch.get_num_threads(),
    }
    prepare_packaged()
    rounds = 1 if quick else ROUNDS
    short, *longer = TOKENS
    steps = 2 if quick else SETTINGS.steps
    bench = Bench(torch.bfloat16, steps)
    points: dict[str, Any] = {}
    others: list[dict[str, Any]] = []
    result["autocast_of_others"] = bench.loop.autocast
    result["bfloat16"] = {"gemm_flops_per_second": bench.rates, "points": points, "search": others}

    def keep() -> None:
        """What there is: the whole takes long, and a part of it is worth having."""
        result["headline"] = headline(result)
        store("training_throughput", result, quick)

    points[str(short)] = bench.compare(short, rounds)
    keep()
    others += search(bench, SEARCH[:1] if quick else SEARCH, 1 if quick else 2)
    keep()
    result["switches"] = ablation(bench, rounds, 1 if quick else 2)
    keep()
    for tokens in () if quick else longer:
        points[str(tokens)] = bench.compare(tokens, rounds)
        keep()
    measure_float32(result, quick)


def measure_float32(result: dict[str, Any], quick: bool) -> None:
    """The short comparison once more in float32, and the end of the result."""
    prepare_packaged()
    bench, tokens = Bench(torch.float32, result["local_steps"]), TOKENS[0]
    points = {str(tokens): bench.compare(tokens, 1 if quick else ROUNDS)}
    result["float32"] = {"environment": environment(), "gemm_flops_per_second": bench.rates, "points": points}
    result["headline"] = headline(result)
    store("training_throughput", result, quick)
    for name, value in result["headline"].items():
        print(f"{name}: {value:.3g}")
