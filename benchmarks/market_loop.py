"""The loop of the marketplace: users correct answers, and the next version learns from a silo of their corrections.

An alliance of private code is published. Users ask for functions of modules that no member has, and correct what they
get. From the same adapter three epochs are played: without the silo of feedback, with it, and with answers in it whose
words were shuffled. What counts is the loss on corrections that were held out, and on the members' own held-out code.
Before it, `flock-ray market-demo` is timed, from the training of its run to the next version that it serves.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.common import environment, step, store, tell
from benchmarks.default_experiment import play
from flock_ray.cluster.run_directory import load_config
from flock_ray.commands.demo_lessons import CORRECTIONS, lessons
from flock_ray.commands.demo_next import drawing_pool
from flock_ray.commands.feedback import next_config
from flock_ray.commands.main import main
from flock_ray.market.feedback import Feedback, FeedbackStore
from flock_ray.market.feedback_export import HELDOUT, SILO, export
from flock_ray.market.registry import Registry
from flock_ray.protocol.hashing import sha256

SEEDS = (10, 20, 22)
START = ("experiment=small", "adversary=none", "chain=eth_tester", "alliance.num_epochs=1")
QUICK = ("training.steps=2", "data.sequence_length=64", "data.heldout_tokens=256", "report.prompts=[]")
NEXT = ("alliance.num_epochs=1", "alliance.num_proposers=5")
DEMO = ("-m", "flock_ray", "market-demo", "port=8123")
TARGETS = {
    "loop_loss_gain_in_standard_errors": 1.0,
    "loop_old_set_excess_over_band": 0.0,
    "market_demo_seconds": 480.0,
}


def shuffled(answer: str, number: int) -> str:
    """The words of an answer in another order: what somebody sends who means harm."""
    words = answer.split()
    random.Random(number).shuffle(words)
    return " ".join(words)


def said(number: int, question: str, correction: str, model: bytes) -> Feedback:
    """What one of twenty users says of the answer to a question."""
    return Feedback(
        request=sha256(b"%d" % number),
        key=f"key-{number % 20}",
        model=model,
        created=1_780_000_000 + number,
        messages=(("user", question),),
        answer="I do not know.",
        rating=-1,
        correction=correction,
        consent=True,
        licence="psf-2.0",
    )


def write_silo(folder: Path, model: bytes, poisoned: bool = False) -> Path:
    """The silo that a gateway's store gives once users have corrected it; `HELDOUT` is beside it."""
    users = FeedbackStore(folder / "store")
    for number, (question, answer) in enumerate(lessons()):
        users.add(said(number, question, shuffled(answer, number) if poisoned else answer, model))
    export(users, folder / "silo")
    return folder / "silo" / SILO


def proposal(run: Path, member: int) -> dict[str, Any]:
    """What the record of epoch 1 says of a member's proposal."""
    record = json.loads((run / "records" / "1.json").read_text())
    return next(one for one in record["proposals"] if one["member"] == member)


def play_next(run: Path, silo: Path, overrides: Sequence[str]) -> Path:
    """An epoch from a run's adapter, with one silo more, whose member proposes; returns its folder."""
    target = silo.parent.parent / "next.yaml"
    if main(["feedback", "task", str(run), "--silo", str(silo), "--to", str(target)]):
        raise SystemExit("error: no next task")
    config = next_config(load_config(run), run, silo)
    alliance = replace(config.alliance, num_epochs=1, num_proposers=5)
    pool = drawing_pool(replace(config, alliance=alliance), run)
    named = ["--config-dir", str(target.parent), "--config-name", target.stem]
    return play([*named, *NEXT, f"alliance.pool={pool}", *overrides])[0]


def old_set_change(run: Path) -> tuple[float, float]:
    """(change of the mean held-out loss of the old silos, acceptance band of the candidate), nats a token."""
    (epoch,) = json.loads((run / "summary.json").read_text())["epochs"]
    before, after = epoch["eval_loss_before"], epoch["eval_loss_after"]
    candidate = json.loads((run / "records" / "1.json").read_text())["candidate"]
    change = fmean(after[silo] - before[silo] for silo in before if silo != SILO.stem)
    return change, (candidate["band"] or 0) / 1e6


def heldout_losses(runs: Sequence[Path], rows: Path) -> list[list[tuple[float, int]]]:
    """For each run, (summed loss in nats, tokens) of each held-out correction under its adapter."""
    from flock_ray.cluster.launch import data_spec
    from flock_ray.commands.trained import load_trained
    from flock_ray.training.engine import LossJob
    from flock_ray.training.jsonl import read
    from flock_ray.training.torch_engine import TorchEngine

    trained = [load_trained(run) for run in runs]
    spec = replace(data_spec(trained[0].config), kind="jsonl", path={0: str(rows)}, sequence_length=512)
    examples = read(spec, 0, trained[0].base.tokenizer).examples
    engine = TorchEngine(trained[0].base, trained[0].spec)
    found = engine.losses([LossJob(one.adapter, examples) for one in trained])
    return [[(loss.nll, loss.num_tokens) for loss in losses] for losses in found]


def measure(seed: int, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """One start, published, and the three epochs that follow it."""
    with step(f"seed {seed}: the run that is published"):
        start, _ = play([*START, f"seed={seed}", f"output_dir={folder}/runs", *overrides])
    registry = folder / "registry"
    if main(["publish", str(start), "--registry", str(registry), "--name", f"coder-{seed}"]):
        raise SystemExit("error: the run was not published")
    model = Registry.open(registry).resolve(f"coder-{seed}").adapter
    silos = {
        poisoned: write_silo(folder / f"feedback-{seed}-{poisoned}", model, poisoned) for poisoned in (False, True)
    }
    member = load_config(start).alliance.num_members
    with step(f"seed {seed}: an epoch without feedback"):
        without, _ = play([*START, f"seed={seed}", f"output_dir={folder}/runs", *overrides, f"start_from={start}"])
    with step(f"seed {seed}: an epoch with feedback"):
        with_it = play_next(start, silos[False], [f"output_dir={folder}/runs"])
    with step(f"seed {seed}: an epoch with poisoned feedback"):
        poisoned_run = play_next(start, silos[True], [f"output_dir={folder}/runs"])
    with step(f"seed {seed}: losses on held-out corrections"):
        before, plain, taught = heldout_losses([start, without, with_it], silos[False].parent / HELDOUT)
    change, band = old_set_change(with_it)
    return {
        "seed": seed,
        "heldout_rows": len(before),
        "heldout": {"before": before, "without": plain, "with": taught},
        "old_set_change": change,
        "band": band,
        "old_set_change_without": old_set_change(without)[0],
        "feedback_proposal": _of_interest(proposal(with_it, member)),
        "poisoned_proposal": _of_interest(proposal(poisoned_run, member)),
    }


def _of_interest(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("status", "score", "band")}


def loss_gain(runs: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(mean, standard error) over held-out corrections of what the loss fell more with feedback, nats a token.

    Of a correction, its summed losses are compared, in the mean over the runs; every token counts the same.
    """
    gains, tokens = list[float](), list[int]()
    for rows in zip(
        *(zip(run["heldout"]["without"], run["heldout"]["with"], strict=True) for run in runs), strict=True
    ):
        gains.append(fmean(plain[0] - taught[0] for plain, taught in rows))
        tokens.append(rows[0][0][1])
    each = fmean(tokens)
    mean = fmean(gains) / each
    residuals = [gain - mean * count for gain, count in zip(gains, tokens, strict=True)]  # of a ratio of two means
    return mean, stdev(residuals) / len(gains) ** 0.5 / each


def demonstration(folder: Path, quick: bool) -> dict[str, Any]:
    """Seconds that the whole demonstration takes, and what it prints."""
    with step("flock-ray market-demo"):
        began = time.monotonic()
        words = [sys.executable, *DEMO, *(["seconds=5"] if quick else [])]
        ended = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        seconds = time.monotonic() - began
    if ended.returncode:
        raise SystemExit(f"error: the demonstration failed: {ended.stderr[-2000:]}")
    return {"market_demo_seconds": seconds, "output": ended.stdout.splitlines()}


def headline(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The figures that count."""
    gain, error = loss_gain(runs)
    before, after = (
        fmean(
            sum(nll for nll, _ in run["heldout"][name]) / sum(count for _, count in run["heldout"][name])
            for run in runs
        )
        for name in ("before", "with")
    )
    return {
        "loop_loss_gain": gain,
        "loop_loss_gain_standard_error": error,
        "loop_loss_gain_in_standard_errors": gain / error,
        "loop_heldout_loss_before": before,
        "loop_heldout_loss_after": after,
        "loop_old_set_change": fmean(run["old_set_change"] for run in runs),
        "loop_old_set_excess_over_band": max(run["old_set_change"] - run["band"] for run in runs),
        "feedback_accepted": sum(run["feedback_proposal"]["status"] == "accepted" for run in runs),
        "feedback_score": fmean(run["feedback_proposal"]["score"] for run in runs) / 1e6,
        "poisoned_feedback_accepted": sum(run["poisoned_proposal"]["status"] == "accepted" for run in runs),
        "poisoned_feedback_score": fmean(run["poisoned_proposal"]["score"] for run in runs) / 1e6,
        "runs": len(runs),
    }


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Measure and store; overrides are those of all runs."""
    before, changed = environment(), [*(QUICK if quick else ()), *overrides]
    with tempfile.TemporaryDirectory(prefix="market-loop-") as name:
        shown = demonstration(Path(name), quick)
        runs = [measure(seed, changed, Path(name)) for seed in (SEEDS[:1] if quick else SEEDS)]
    figures = headline(runs) | {"market_demo_seconds": shown["market_demo_seconds"]}
    result = {
        "environment": before, "corrections": CORRECTIONS, "overrides": [*START, *changed], "demonstration": shown,
        "runs": runs,
        "targets": TARGETS, "headline": figures,
    }  # fmt: skip
    store("market_loop", result, quick)
    for figure, value in figures.items():
        tell(f"{figure}: {value:.4g}")
