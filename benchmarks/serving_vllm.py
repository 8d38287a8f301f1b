"""Ours and vLLM's CPU build on the same requests, in turns."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.common import step
from benchmarks.orchestration import Side
from benchmarks.peers.environments import PEERS, python_of
from benchmarks.serving_load import Cell, Played, speed, without_answers
from flock_ray.lora.peft_io import LoraSpec, save_peft
from flock_ray.lora.serialization import canonical_bytes

if TYPE_CHECKING:
    from benchmarks.serving import Bench

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WITHOUT = ("torchvision", "torchaudio", "torchcodec")  # the index has them for a GPU's torch


def against_vllm(bench: Bench, cell: Cell, spec: LoraSpec, rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Ours and vLLM's CPU build in turns on the same requests of a load: (what was measured, its headline)."""
    extent = bench.extent
    asked = [bench.drawn(cell, extent.asked * cell.users, seed) for seed in range(rounds)]
    ours: list[Played] = []
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(number) for number in range(cell.adapters)]
        for folder, adapter in zip(folders, bench.adapters, strict=False):
            save_peft(folder, canonical_bytes(adapter), spec, TARGETS, str(bench.folder))
        case = {
            "model": str(bench.folder), "dtype": str(bench.dtype).removeprefix("torch."), "rank": spec.rank,
            "threads": torch.get_num_threads(), "adapters": [str(folder) for folder in folders], "users": cell.users,
            "length": cell.prompt + extent.answer, "answer": extent.answer, "turns": asked,
        }  # fmt: skip
        path = Path(place) / "case.json"
        path.write_text(json.dumps(case))
        python = python_of("vllm", WITHOUT)
        with step(f"{cell.name}: loading vLLM"):
            vllm = Side("vllm", [str(python), str(PEERS / "vllm_rounds.py"), str(path)])
        with vllm:
            for seed in range(rounds):
                with step(f"{cell.name}: round {seed + 1} of {rounds}, ours and vLLM"):
                    ours.append(bench.turn("o", cell, seed))
                    vllm.play()
    theirs = [Played(one["seconds"], one["tree_cpu_seconds"], one["tokens"]) for one in vllm.rounds]
    same = sum(a == b for one, two in zip(ours, vllm.rounds, strict=True)
               for a, b in zip(one.answers, two["answers"], strict=True))  # fmt: skip
    measured = {"ours": list(map(without_answers, ours)), "vllm": list(map(without_answers, theirs))}
    return (
        {cell.name: {**measured, "same_answers": same, "answers": sum(map(len, asked))}},
        {f"tok_s_vllm_cpu_{cell.name}": speed(theirs), f"ratio_vs_vllm_cpu_{cell.name}": speed(ours) / speed(theirs)},
    )
