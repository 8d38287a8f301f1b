"""Local training of K members on one device: reload per member, one base swapped, plain PEFT, and all in one batch.

Everybody takes the same local steps over the same tokens, from the same adapters, with AdamW and clipping. `reload`
makes base model, adapter and optimizer anew for every member, `swap` copies adapters in and out of one resident PEFT
model, `peft` is that model's loop over one member, `stacked` is this project's cohort. Members of `reload` and `swap`
come one after the other, so a round times one of them, whatever K. The others may cast as they like best: with PEFT's
own casts or under autocast, whichever is faster here. Contenders take turns; ratios are of medians. Imports and the
packaged model's first conversion are not counted. Needs no Ray. Everything is measured in the type that a run takes:
bfloat16 where the device has instructions for it, and then the short comparison in float32 too; else float32 alone.
Takes about half an hour on two cores and stores each section as it is done; `only=float32` measures that section anew
and keeps the others. `training_gpu` is the same on a GPU.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median, stdev
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.common import earlier_result, environment, step, store, tell
from benchmarks.peers.local_loops import PeftLoop
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes
from flock_ray.lora.serialization import Adapter
from flock_ray.training import attention
from flock_ray.training.data import IGNORED, Example
from flock_ray.training.engine import MemberJob, TrainOutcome, TrainSettings
from flock_ray.training.flops import FlopCounter, gemm_rate, mfu
from flock_ray.training.model import ModelSpec, choose_dtype, load_base, prepare_packaged
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions

SPEC = LoraSpec(8, 16, ("all-linear",))
SETTINGS = TrainSettings(steps=10, batch_size=1, learning_rate=1e-4, weight_decay=0.01, max_grad_norm=1.0)
CPU = torch.device("cpu")

Contender = Callable[[], int]
"""Trains; returns how many labelled tokens it trained on."""


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        members: in one batch in the comparisons.
        steps: of each of them.
        tokens: a member-step of each comparison; the first one is that of the switches, too.
        warm_up: steps of every contender that do not count, before a comparison and before the switches.
        rounds: of every contender.
        search: K and tokens a member-step that the best point is looked for among, besides the comparisons.
        search_rounds, search_steps: of each of these points.
        switch_members, switch_steps: of the switches.
        gemm_sizes: of the square matrix products that are the measure.
        compiled: whether layers are compiled as well, which takes minutes where it pays.
    """

    members: int
    steps: int
    tokens: tuple[int, ...]
    warm_up: int
    rounds: int
    search: tuple[tuple[int, int], ...]
    search_rounds: int
    search_steps: int
    switch_members: int
    switch_steps: int
    gemm_sizes: tuple[int, ...]
    compiled: bool

    @property
    def ours(self) -> str:
        """The name of the contender that counts."""
        return f"stacked_k{self.members}"


WHOLE = Extent(
    members=8,
    steps=SETTINGS.steps,
    tokens=(64, 256),
    warm_up=2,
    rounds=5,
    search=((4, 256), (16, 64), (16, 128), (32, 64)),
    search_rounds=3,
    search_steps=2,
    switch_members=8,
    switch_steps=2,
    gemm_sizes=(1024, 2048, 4096),
    compiled=True,
)
QUICK = Extent(
    members=2,
    steps=1,
    tokens=(32,),
    warm_up=0,
    rounds=1,
    search=((2, 64),),
    search_rounds=1,
    search_steps=1,
    switch_members=2,
    switch_steps=1,
    gemm_sizes=(1024,),
    compiled=False,
)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """Other layers with the same weights in memory."""
    return deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


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
    what: str,
    contenders: dict[str, Contender],
    rounds: int,
    measure: Callable[[Contender], dict[str, float]] = timed,
) -> dict[str, list[dict[str, float]]]:
    """A B C A B C ..."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for turn in range(1, rounds + 1):
        for name, contender in contenders.items():
            with step(f"{what}: {name}, round {turn} of {rounds}"):
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
    device: str,
    measure: Callable[[Contender], dict[str, float]] = timed,
) -> PeftLoop:
    """The others' loop with the casts that suit this device; autocast to bfloat16 only where there are instructions."""
    if choose_dtype("auto", device) != torch.bfloat16:
        return PeftLoop(load, spec, autocast=False)
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

    def __init__(self, dtype: torch.dtype, extent: Extent) -> None:
        """Load them, measure the device."""
        self.dtype, self.extent, self.name = dtype, extent, str(dtype).removeprefix("torch.")
        with step(f"{self.name}: loading"):
            self.base = load_base(ModelSpec("packaged", "", "main", self.name, CPU.type))
            shapes = adapter_shapes(self.base.model, SPEC.target_modules, SPEC.rank)
            self.flops = FlopCounter.of(self.base.model, SPEC)
            self.adapter = initial_adapter(shapes, seed=1)
            self.engine = self.stacked_engine()
        with step(f"{self.name}: how the others cast best"):
            [job] = jobs(1, extent.tokens[0], self.adapter, 2)
            self.loop = faster_loop(lambda: from_files(dtype), SPEC, job, CPU.type)
            self.peft = self.loop.fresh()
        self.rates = self.products()

    @cached_property
    def compiled(self) -> StackedEngine:
        """One with compiled layers."""
        return self.stacked_engine(compiled=True)

    def stacked_engine(self, kind: type[StackedEngine] = StackedEngine, **switches: Any) -> StackedEngine:
        """One over the resident weights, with layers of its own."""
        return kind(replace(self.base, model=twin(self.base.model)), SPEC, StackedOptions(**switches))

    def products(self) -> dict[int, float]:
        """Operations a second of matrix products now, by their size."""
        with step(f"{self.name}: matrix products"):
            return gemm_rate(self.dtype, CPU, self.extent.gemm_sizes)

    def work(self, members: int, tokens: int, steps: int) -> int:
        """Operations of the local training of so many members."""
        return self.flops.training([tokens] * members * steps, (tokens - 1) * members * steps)

    def compare(self, tokens: int) -> dict[str, Any]:
        """All contenders at so many tokens a member-step."""
        what, extent, steps = f"{self.name}, {tokens} tokens", self.extent, self.extent.steps
        [job], many = jobs(1, tokens, self.adapter, steps), jobs(extent.members, tokens, self.adapter, steps)
        ours, compiled = extent.ours, f"{extent.ours}_compiled"
        contenders: dict[str, Contender] = {
            "reload": lambda: self.loop.reload(job),
            "swap": lambda: self.loop.swap(self.peft, job),
            "peft": lambda: self.loop.steps(self.peft, job),
            "stacked_k1": lambda: stacked(self.engine, [job]),
            ours: lambda: stacked(self.engine, many),
        }
        if extent.warm_up:
            with step(f"{what}: warming up"):
                self.loop.steps(self.peft, jobs(1, tokens, self.adapter, extent.warm_up)[0])
                for members in (1, extent.members):
                    stacked(self.engine, jobs(members, tokens, self.adapter, extent.warm_up))
        if extent.compiled and self.dtype == torch.bfloat16:
            with step(f"{what}: compiling"):
                stacked(self.compiled, jobs(extent.members, tokens, self.adapter, 1))
            contenders[compiled] = lambda: stacked(self.compiled, many)
        found = in_turn(what, contenders, extent.rounds)
        for size, rate in self.products().items():
            self.rates[size] = max(rate, self.rates[size])
        works = {
            name: self.work(extent.members if name in (ours, compiled) else 1, tokens, steps) for name in contenders
        }
        points = {name: summary(found[name], works[name], max(self.rates.values())) for name in contenders}
        for name, one in points.items():
            speed, share = one["useful_tokens_per_second"], one["mfu"]
            tell(f"{what}, {name}: {speed:.0f} tokens/s, MFU {share:.2f}")
        return points


def search(bench: Bench) -> list[dict[str, Any]]:
    """Speed of the cohort at other points."""
    found, extent = [], bench.extent
    for members, tokens in extent.search:
        what, steps = f"{bench.name}, K={members}, {tokens} tokens", extent.search_steps
        drawn = jobs(members, tokens, bench.adapter, steps)
        with step(what):
            stacked(bench.engine, jobs(members, tokens, bench.adapter, 1))
            one = [timed(lambda drawn=drawn: stacked(bench.engine, drawn)) for _ in range(extent.search_rounds)]
        result = summary(one, bench.work(members, tokens, steps), max(bench.rates.values()))
        found.append({"members": members, "tokens": tokens, **result})
        tell(f"{what}: MFU {result['mfu']:.2f}")
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


def ablation(bench: Bench) -> dict[str, Any]:
    """Each switch of the step against the step without it, at 8 x 64 tokens; gain is time without over time with."""
    default, extent, engine = bench.engine, bench.extent, bench.stacked_engine
    members = jobs(extent.switch_members, extent.tokens[0], bench.adapter, extent.switch_steps)
    prompts, uneven = half_labelled(members), ragged(members)

    all_logits, below, padded = engine(chunk_tokens=None), engine(), engine(PaddedEngine)
    all_logits.loss.whole_logits = True
    below.loss.model.enable_input_require_grads()
    whole, grouped, checkpointing = engine(chunk_tokens=None), engine(grouped=True), engine(checkpointing=True)
    variants: dict[str, Contender] = {
        "default": lambda: stacked(default, members),
        "all_logits_at_once": lambda: stacked(whole, members),
        "fused_attention": lambda: with_fused_attention(lambda: stacked(default, members)),
        "gradient_to_embeddings": lambda: stacked(below, members),
        "checkpointing": lambda: stacked(checkpointing, members),
        "half_labelled": lambda: stacked(default, prompts),
        "half_labelled_all_logits": lambda: stacked(all_logits, prompts),
        "uneven": lambda: stacked(default, uneven),
        "uneven_padded": lambda: stacked(padded, uneven),
        "uneven_grouped": lambda: stacked(grouped, uneven),
    }
    if extent.compiled:
        variants["compiled"] = lambda: stacked(bench.compiled, members)
    if extent.warm_up:
        in_turn("switches, warming up", variants, 1)
    found = in_turn("switches", variants, extent.rounds)
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
            **({"compiled_layers": seconds["default"] / seconds["compiled"]} if extent.compiled else {}),
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


def ratios(points: Mapping[str, Any], members: int) -> dict[str, float]:
    """Useful tokens a second of all members in one batch over those of the others."""
    figures: dict[str, float] = {}
    for tokens, point in points.items():
        speed = {name: float(one["useful_tokens_per_second"]) for name, one in point.items()}
        for name in ("swap", "reload"):
            for suffix in ("", "_compiled"):
                if ours := speed.get(f"stacked_k{members}{suffix}"):
                    figures[f"{name}_ratio_k{members}_t{tokens}{suffix}"] = ours / speed[name]
    return figures


def headline(result: dict[str, Any]) -> dict[str, float]:
    """The figures that count as far as they are there, in the type that a run takes unless they say otherwise."""
    found, members = result[result.get("dtype", "bfloat16")], int(result.get("members", WHOLE.members))
    points: Mapping[str, Any] = found["points"]
    tokens, short = next(iter(points.items()))
    speed = {name: float(one["useful_tokens_per_second"]) for name, one in short.items()}
    every = [one["mfu"] for one in [*found["search"], *(one for point in points.values() for one in point.values())]]
    exact = result.get("float32", {}).get("points", {})
    figures = {f"{name}_float32": value for name, value in ratios(exact, members).items()}
    if exact:
        figures["gemm_fraction_float32"] = max(one["mfu"] for point in exact.values() for one in point.values())
    return {
        **ratios(points, members),
        **figures,
        "gemm_fraction_best": max(every),
        "gemm_tflops_per_second": max(found["gemm_flops_per_second"].values()) / 1e12,
        "k1_vs_peft_ratio": speed["stacked_k1"] / speed["peft"],
        f"tokens_per_second_k{members}_t{tokens}": speed[f"stacked_k{members}"],
    }


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store."""
    extent, dtype = QUICK if quick else WHOLE, choose_dtype("auto", CPU.type)
    both = dtype == torch.bfloat16
    if list(overrides) == ["only=float32"] and both:
        result = earlier_result("training_throughput", quick)
        measure_float32(result, extent, quick)
        return show(result["headline"])
    if overrides:
        raise SystemExit("error: training_throughput takes one override, only=float32, where a CPU has bfloat16 too")
    with step("the packaged model"):
        prepare_packaged()
    bench = Bench(dtype, extent)
    points: dict[str, Any] = {}
    others: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "environment": environment(),
        "model": "SmolLM2-135M-Instruct",
        "dtype": bench.name,
        "lora": {"rank": SPEC.rank, "alpha": SPEC.alpha, "target_modules": SPEC.target_modules},
        "members": extent.members,
        "local_steps": extent.steps,
        "threads": torch.get_num_threads(),
        "autocast_of_others": bench.loop.autocast,
        bench.name: {"gemm_flops_per_second": bench.rates, "points": points, "search": others},
    }

    def keep() -> None:
        """What there is: the whole takes long, and a part of it is worth having."""
        result["headline"] = headline(result)
        store("training_throughput", result, quick)

    short, *longer = extent.tokens
    points[str(short)] = bench.compare(short)
    keep()
    others += search(bench)
    keep()
    result["switches"] = ablation(bench)
    keep()
    for tokens in longer:
        points[str(tokens)] = bench.compare(tokens)
        keep()
    if both and not quick:
        measure_float32(result, extent, quick)
    show(result["headline"])


def measure_float32(result: dict[str, Any], extent: Extent, quick: bool) -> None:
    """The short comparison once more in float32, besides one in bfloat16."""
    bench, tokens = Bench(torch.float32, extent), extent.tokens[0]
    points = {str(tokens): bench.compare(tokens)}
    result["float32"] = {"environment": environment(), "gemm_flops_per_second": bench.rates, "points": points}
    result["headline"] = headline(result)
    store("training_throughput", result, quick)


def show(figures: Mapping[str, float]) -> None:
    """A line for each figure."""
    for name, value in figures.items():
        print(f"{name}: {value:.3g}")
