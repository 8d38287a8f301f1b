"""The default experiment over three run seeds, each with and without the adversary: what it promises, measured.

Each seed is one run of `jobs/alliance.py`. The saved adapter is then loaded in plain transformers and PEFT and must
give the losses that the run reported. Needs most of an hour on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.common import ROOT, environment, step, store

SEEDS = (11, 12, 17)
"""Seeds under which the adversary is drawn to propose, and every member gets a role."""


def play(overrides: Sequence[str]) -> tuple[Path, float]:
    """One run of the job; returns its folder and wall seconds."""
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "jobs" / "alliance.py"), *overrides]
    done = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    folder = next(line for line in done.stdout.splitlines() if line.startswith("Run folder: "))
    return Path(folder.removeprefix("Run folder: ")), time.perf_counter() - start


def plain_losses(folder: Path) -> dict[str, float]:
    """Held-out loss of each silo under the saved adapter, in plain transformers and PEFT."""
    import torch
    from omegaconf import OmegaConf
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from flock_ray.cluster.run_directory import load_config
    from flock_ray.protocol.seed import local_seed
    from flock_ray.training.data import DataSpec, load_silo
    from flock_ray.training.model import choose_dtype, prepare_packaged

    config = load_config(folder)
    data = OmegaConf.to_container(OmegaConf.structured(config.data))
    assert isinstance(data, dict)
    fields = {str(name): value for name, value in data.items()} | {"packages": tuple(config.data.packages)}
    spec = DataSpec(**fields, seed=local_seed(config.seed, "data"))
    packaged, dtype = prepare_packaged(), choose_dtype(config.model.dtype, "cpu")
    tokenizer = AutoTokenizer.from_pretrained(packaged)
    base = AutoModelForCausalLM.from_pretrained(packaged, dtype=dtype, attn_implementation="eager")  # as the run had it
    model = PeftModel.from_pretrained(base, folder / "adapter")
    losses = {}
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    for member in range(config.alliance.num_members):
        silo = load_silo(spec, member, tokenizer)
        with torch.no_grad(), mixed:
            each = [model(input_ids=e.input_ids[None], labels=e.labels[None]).loss.item() for e in silo.heldout]
        losses[silo.name] = fmean(each)
    return losses


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """What one run came to, from its summary."""
    summary = json.loads((folder / "summary.json").read_text())
    epochs = []
    for epoch in summary["epochs"]:
        before, after = epoch["eval_loss_before"], epoch["eval_loss_after"]
        gains = [before[silo] - after[silo] for silo in before]
        epochs.append(
            {
                "accepted": epoch["accepted"],
                "mean_before": fmean(before.values()),
                "mean_after": fmean(after.values()),
                "gain": fmean(gains),
                "gain_standard_error": stdev(gains) / len(gains) ** 0.5,
                "proposals": epoch["proposals"],
                "gas_used": epoch["gas_used"],
                "wall_seconds": epoch["wall_seconds"],
            }
        )
    first, last = epochs[0]["mean_before"], epochs[-1]["mean_after"]
    reported = summary["epochs"][-1]["eval_loss_after"]
    plain = plain_losses(folder)
    change = [
        {
            "silo": member["silo"],
            "adversary": member["adversary"],
            "change_wei": member["balance_end_wei"] - member["balance_start_wei"],
            "earned_wei": member["earned_wei"],
            "slashed_wei": member["slashed_wei"],
            "times_proposer": member["times_proposer"],
        }
        for member in summary["members"]
    ]
    return {
        "seed": summary["run"]["seed"],
        "wall_seconds": seconds,
        "load_seconds": summary["run"]["load_seconds"],
        "loss_start": first,
        "loss_end": last,
        "loss_end_by_silo": reported,
        "loss_fall": 1 - last / first,
        "epochs": epochs,
        "members": change,
        "plain_peft_max_difference": max(abs(plain[silo] - loss) for silo, loss in reported.items()),
        "final_adapter_hash": summary["final_adapter_hash"],
        "chain": summary["chain"]["backend"],
    }


def loss_without_adversary(run: dict[str, Any], without: dict[str, Any]) -> float:
    """Final mean loss without the adversary, over the silos that the run with it reports: the honest members'."""
    return fmean(without["loss_end_by_silo"][silo] for silo in run["loss_end_by_silo"])


def headline(runs: Sequence[dict[str, Any]], honest: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures that count, over the seeds."""
    members = [member for run in runs for member in run["members"] if not member["adversary"]]
    cheats = [member for run in runs for member in run["members"] if member["adversary"]]
    accepted = [epoch for run in runs for epoch in run["epochs"] if epoch["accepted"]]
    return {
        "min_loss_fall": min(run["loss_fall"] for run in runs),
        "mean_loss_fall": fmean(run["loss_fall"] for run in runs),
        "accepted_epochs": len(accepted),
        "accepted_epochs_beyond_standard_error": sum(e["gain"] > e["gain_standard_error"] for e in accepted),
        "runs_where_adversary_proposed": sum(cheat["times_proposer"] > 0 for cheat in cheats),
        "max_adversary_change_tokens": max(cheat["change_wei"] for cheat in cheats) / 1e18,
        "honest_members_slashed": sum(member["slashed_wei"] > 0 for member in members),
        "honest_members_with_less": sum(member["change_wei"] < 0 for member in members),
        "honest_members_with_more": sum(member["change_wei"] > 0 for member in members),
        "honest_members": len(members),
        "max_plain_peft_difference": max(run["plain_peft_max_difference"] for run in [*runs, *honest]),
        "loss_end_with_adversary": [run["loss_end"] for run in runs],
        "loss_end_without_adversary": [loss_without_adversary(*pair) for pair in zip(runs, honest, strict=True)],
        "max_wall_seconds": max(run["wall_seconds"] for run in runs),
        "max_gas": max(epoch["gas_used"] or 0 for run in runs for epoch in run["epochs"]),
    }


def played(seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Play one run, and measure it."""
    name = " ".join([f"seed={seed}", *overrides])
    with step(f"{name}: the run"):
        folder, seconds = play([f"seed={seed}", *overrides])
    with step(f"{name}: losses in plain transformers and PEFT"):
        return measure(folder, seconds)


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store."""
    seeds = SEEDS[:1] if quick else SEEDS
    short = ["experiment=tiny", "training.steps=1", "data.heldout_tokens=128"] if quick else []
    runs = [played(seed, [*short, *overrides]) for seed in seeds]
    honest = [played(seed, [*short, "adversary=none", *overrides]) for seed in seeds]
    result = {
        "environment": environment(),
        "overrides": list(overrides),
        "runs": runs,
        "without_adversary": honest,
        "headline": headline(runs, honest),
    }
    store("default_experiment", result, quick)
    for name, value in result["headline"].items():
        print(f"{name}: {value}")
