"""The same federated LoRA fine-tuning in Flower's simulation, as FlowerTune does it, and in this project.

Same base model, silos, adapter shape and start, members, batches in the same order, learning rates, clipping and two
cores. Ours is `jobs/alliance.py`: `plain` with voting and settlement off, `full` with ballots and the embedded chain.
Flower's clients then train on exactly the batches of the members that proposed in each epoch of `plain`. The three take
turns; a round is what lies between two starts, the last one ends with its average, or settlement; the first round of
every run and all that comes before it (process start, imports) are reported apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from safetensors.torch import load_file

from benchmarks.common import ROOT, environment, step, store, tell
from benchmarks.peers.environments import PEERS, python_of
from benchmarks.peers.flower_task import Task
from benchmarks.peers.process_tree import Watched, watch
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.lora.serialization import Adapter

VOTERS, CORES = 4, 2
MODES = {"plain": ("mechanism=open", "chain=none"), "full": ("mechanism=marginal1", "chain=eth_tester")}
FLOWER = {"flower": 2, "flower_parallel": 1}
"""CPUs of a client call: as FlowerTune asks, one client has the machine to itself; or one core each, two at a time."""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false"}
DEVIATIONS = (
    "SmolLM2-135M-Instruct in the type that this project takes on the machine, in place of a 3B or 7B model in 4 bits;"
    " no gradient checkpointing, no LoRA dropout, eager attention: all faster for Flower on a CPU",
    "a plain PyTorch loop in place of trl's SFTTrainer, whose construction would cost Flower time in every call",
    "token ids come from a file, already tokenised; the client reads only its own",
    "LoRA on all linear layers with this project's rank, alpha, learning rates and clipping in place of FlowerTune's",
    "all clients take part in every round in place of a tenth of them; client k stands for the k-th member that"
    " proposed in that epoch here; ours has a node on each core, as flower_parallel a client",
    "FlowerTune's client has a GPU and 6 or 8 CPUs to itself: with 2 cores that is num_cpus=2, also Flower's default."
    " num_cpus=1, two clients at a time, is measured as flower_parallel, and ratios are to the faster of the two",
    "the server starts from the given adapter and neither loads the base model nor saves checkpoints",
    "run_simulation in place of `flwr run`, which would add a daemon and its start",
    "min_train_nodes is the number of clients, since the first round would else go to those that registered by then",
    "Flower does not evaluate, as FlowerTune; ours evaluates every member's held-out part in each epoch, which counts",
)


@dataclass(frozen=True)
class Point:
    """One size of the task.

    Attributes:
        members: that train in each round.
        steps, batch_size, sequence_length: of a member's local training.
        turns: rounds of each contender's run in each turn; the first round of a run is warm-up.
        why: this size.
    """

    name: str
    members: int
    steps: int
    batch_size: int
    sequence_length: int
    turns: tuple[int, ...]
    why: str

    @property
    def heldout_tokens(self) -> int:
        """Two fifteenths of a member's training tokens, as in the default experiment; two sequences or more."""
        return max(2, ceil(self.steps * self.batch_size * 2 / 15)) * self.sequence_length

    def overrides(self, rounds: int) -> list[str]:
        """Hydra overrides of our runs; voters do not propose, so there are more members than train in a round."""
        return [
            "adversary=none",
            f"alliance.num_members={self.members + VOTERS}",
            f"alliance.hosts={CORES}",
            f"alliance.num_proposers={self.members}",
            f"alliance.num_voters={VOTERS}",
            f"alliance.num_epochs={rounds}",
            "alliance.assumed_malicious=0.1",
            f"training.steps={self.steps}",
            f"training.batch_size={self.batch_size}",
            f"data.sequence_length={self.sequence_length}",
            f"data.heldout_tokens={self.heldout_tokens}",
            f"cluster.nodes={CORES}",
        ]


POINTS = (
    Point(
        "8 members, 10 steps of 1 x 64",
        8, 10, 1, 64, (4, 3),
        "FlowerTune's ten local steps, with the batch that a CPU takes in seconds; the size at which issue and"
        " benchmarks/training_throughput.py compare local training",
    ),
    Point(
        "4 members, 5 steps of 2 x 128",
        4, 5, 2, 128, (4, 3),
        "the same tokens a round in a quarter of the member-steps: fewer members to share the base model, and large"
        " enough batches to fill the cores without them",
    ),
)  # fmt: skip
QUICK = (Point("2 members, 2 steps of 1 x 64", 2, 2, 1, 64, (2,), "to see that both sides run"),)


@dataclass(frozen=True)
class Rounds:
    """What one run took.

    Attributes:
        seconds, cpu_seconds: of each measured round.
        warm_up_seconds: of the first round.
        start_up_seconds: from the start of the process to that of the first round.
        peak_memory_mb: of the tree of processes.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    warm_up_seconds: float
    start_up_seconds: float
    peak_memory_mb: float

    @classmethod
    def of(cls, watched: Watched, bounds: Sequence[float]) -> Rounds:
        """From the times, seconds since 1970, at which the rounds began and the last one ended."""
        pairs = list(pairwise(bounds))
        return cls(
            [end - start for start, end in pairs[1:]],
            [watched.cpu_between(*pair) for pair in pairs[1:]],
            pairs[0][1] - pairs[0][0],
            bounds[0] - watched.samples[0].time,
            watched.peak_memory(),
        )


def play(overrides: Sequence[str]) -> tuple[Path, Rounds]:
    """One run of the job; returns its folder."""
    watched = watch([sys.executable, str(ROOT / "jobs" / "alliance.py"), *overrides], ROOT)
    line = next(line for line in watched.stdout.splitlines() if line.startswith("Run folder: "))
    run = RunDirectory(Path(line.removeprefix("Run folder: ")))
    begun = [event["time"] for event in run.logged("roles")]
    ended = [event["time"] for kind in ("epoch", "settled") for event in run.logged(kind)]
    return run.path, Rounds.of(watched, [*begun, max(ended)])


def play_flower(folder: Path, cpus: int) -> Rounds:
    """One run of Flower on a dumped task, with so many CPUs for a client call."""
    command = [str(python_of("flower")), str(PEERS / "flower_app.py"), str(folder), str(cpus)]
    watched = watch(command, folder, {**QUIET, "FLWR_HOME": str(folder / "flwr")})
    clients = json.loads((folder / "plan.json").read_text())["clients"]
    rounds = json.loads((folder / "rounds.json").read_text())["rounds"]
    if any(one["replies"] != clients for one in rounds):  # it ends with 0 nevertheless
        raise SystemExit(f"error: a round of Flower lost clients; to see why: {' '.join(command)}")
    return Rounds.of(watched, [*(one["start"] for one in rounds), rounds[-1]["end"]])


def take_turns(point: Point, overrides: Sequence[str]) -> tuple[dict[str, list[Rounds]], list[dict[str, Any]]]:
    """All runs of a point: {contender: its runs}, and for each turn where the adapters ended."""
    runs: dict[str, list[Rounds]] = {}
    ends = []

    def note(name: str, measured: Rounds) -> None:
        runs.setdefault(name, []).append(measured)
        tell(f"{point.name}, {name}: {median(measured.seconds):.1f} s a round")

    for turn, rounds in enumerate(point.turns):
        final: dict[str, Adapter] = {}
        for mode, chosen in MODES.items():
            with step(f"{point.name}, {mode}: a run of {rounds} rounds"):
                folder, measured = play([*point.overrides(rounds), *chosen, *overrides])
            note(mode, measured)
            final[mode] = load_file(folder / "adapter" / "adapter_model.safetensors")
            if mode == "plain":
                with step(f"{point.name}: the task for Flower"):
                    task, dumped = Task.of(folder), ROOT / "outputs" / "flower_peer" / f"turn-{turn + 1}"
                    task.dump(dumped)
                for name, cpus in FLOWER.items():
                    with step(f"{point.name}, {name}: a run of {rounds} rounds"):
                        played = play_flower(dumped, cpus)
                    note(name, played)
                    final[name] = load_file(dumped / "final.safetensors")
        with step(f"{point.name}: losses of the adapters"):
            cosine = task.cosine(final["plain"], final["flower"])
            ends.append({"losses": task.losses(final), "cosine_of_plain_and_flower": cosine})
    return runs, ends


def contender(runs: Sequence[Rounds]) -> dict[str, Any]:
    """Median and spread over the measured rounds of all runs, and the runs themselves."""
    seconds = [one for run in runs for one in run.seconds]
    return {
        "round_seconds": median(seconds),
        "round_seconds_stdev": stdev(seconds) if len(seconds) > 1 else None,
        "round_cpu_seconds": median(one for run in runs for one in run.cpu_seconds),
        "measured_rounds": len(seconds),
        "start_up_seconds": median(run.start_up_seconds for run in runs),
        "peak_memory_mb": max(run.peak_memory_mb for run in runs),
        "runs": [asdict(run) for run in runs],
    }


def compare(point: Point, overrides: Sequence[str]) -> dict[str, Any]:
    """One point: what each contender took, ratios to Flower's faster setting, and how far the final losses agree."""
    runs, ends = take_turns(point, overrides)
    found = {name: contender(those) for name, those in runs.items()}
    fastest = min(FLOWER, key=lambda name: found[name]["round_seconds"])
    ratios = {
        mode: {kind: found[fastest][kind] / found[mode][kind] for kind in ("round_seconds", "round_cpu_seconds")}
        for mode in MODES
    }
    return {
        **asdict(point),
        "heldout_tokens": point.heldout_tokens,
        "overrides": {mode: [*point.overrides(point.turns[0]), *chosen] for mode, chosen in MODES.items()},
        "contenders": found,
        "faster_flower": fastest,
        "ratios": ratios,
        "ends": ends,
        "final_loss_difference": max(abs(end["losses"]["plain"] - end["losses"]["flower"]) for end in ends),
        "final_loss_fall": fmean(end["losses"]["start"] - end["losses"]["plain"] for end in ends),
    }


def as_flowertune(point: dict[str, Any], mode: str) -> float:
    """Ratio to Flower with all cores for one client, as FlowerTune asks, whether that is its faster setting or not."""
    found = point["contenders"]
    return float(found["flower"]["round_seconds"] / found[mode]["round_seconds"])


def table(points: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table for the documentation."""
    lines = [
        "| task of a round | Flower | voting and settlement off | on | final loss, Flower / off |",
        "|---|---|---|---|---|",
    ]
    for point in points:
        flower = point["contenders"][point["faster_flower"]]["round_seconds"]
        ours = [
            f"{point['contenders'][mode]['round_seconds']:.1f} s ({point['ratios'][mode]['round_seconds']:.2f} x)"
            for mode in MODES
        ]
        last = point["ends"][0]["losses"]
        cells = [point["name"], f"{flower:.1f} s", *ours, f"{last['flower']:.4f} / {last['plain']:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Measure, store."""
    python_of("flower")
    before = environment()
    points: list[dict[str, Any]] = []
    for point in QUICK if quick else POINTS:
        points.append(compare(point, overrides))
        first = points[0]
        result = {
            "environment": before,
            "peer": (PEERS / "flower.txt").read_text().split(),
            "overrides": list(overrides),
            "deviations": DEVIATIONS,
            "points": points,
            "table": table(points),
            "headline": {
                "flower_ratio_plain": first["ratios"]["plain"]["round_seconds"],
                "flower_ratio_full": first["ratios"]["full"]["round_seconds"],
                "flowertune_ratio_plain": as_flowertune(first, "plain"),
                "flowertune_ratio_full": as_flowertune(first, "full"),
                "flower_cpu_ratio_plain": first["ratios"]["plain"]["round_cpu_seconds"],
                "flower_cpu_ratio_full": first["ratios"]["full"]["round_cpu_seconds"],
                "flower_ratio_plain_lowest": min(point["ratios"]["plain"]["round_seconds"] for point in points),
                "flower_ratio_full_lowest": min(point["ratios"]["full"]["round_seconds"] for point in points),
                "flower_final_loss_difference": max(point["final_loss_difference"] for point in points),
            },
        }
        store("flower_peer", result, quick)
    for name, value in result["headline"].items():
        print(f"{name}: {value}")
