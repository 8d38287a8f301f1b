"""`flock-ray evaluate`: what a run trained, measured on other data, beside its base model."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flock_ray.cluster.launch import data_spec
from flock_ray.commands.output import Output
from flock_ray.commands.settings import EvaluateSettings, read_settings
from flock_ray.commands.trained import load_trained
from flock_ray.errors import DataError
from flock_ray.protocol.metrics import bits_per_byte
from flock_ray.training.counts import RowCounts
from flock_ray.training.data import Reading, num_target_bytes
from flock_ray.training.engine import LossJob, SequenceLoss
from flock_ray.training.files import files_of
from flock_ray.training.jsonl import read
from flock_ray.training.torch_engine import TorchEngine


def figures(losses: Sequence[SequenceLoss], num_bytes: Sequence[int], average: str) -> tuple[float, float]:
    """Loss in nats a token, and bits a byte.

    `token`: over all tokens, and all bytes, together. `row`: the mean of the rows' own figures, which counts a token of
    a short row for more; validators that average so find other losses of the same model.
    """
    if average == "token":
        nll = math.fsum(loss.nll for loss in losses)
        return nll / sum(loss.num_tokens for loss in losses), bits_per_byte(nll, sum(num_bytes))
    own = [bits_per_byte(loss.nll, size) for loss, size in zip(losses, num_bytes, strict=True) if size]
    mean = math.fsum(loss.nll / loss.num_tokens for loss in losses) / len(losses)
    return mean, math.fsum(own) / len(own) if own else math.inf


def evaluate(asked: Namespace) -> None:
    """Print a row for each file: its loss and bits a byte under the base model and with the adapter."""
    settings = read_settings(EvaluateSettings, asked.settings)
    files = files_of(settings.data)
    if not files:
        raise DataError(f"data={settings.data} matches no file; give a file of conversations, a folder or a glob")
    trained = load_trained(settings.run, settings.threads)
    spec = replace(data_spec(trained.config), kind="jsonl", sequence_length=settings.length)
    engine = TorchEngine(trained.base, trained.spec)
    nothing = {key: torch.zeros_like(factor) for key, factor in trained.adapter.items()}
    found = []
    for file in files:
        reading = read(replace(spec, path={0: file}), 0, trained.base.tokenizer)
        rows = reading.examples
        base, adapted = engine.losses([LossJob(nothing, rows), LossJob(trained.adapter, rows)])
        sizes = [num_target_bytes(trained.base.tokenizer, [row]) for row in rows]
        before, after = (figures(losses, sizes, settings.average) for losses in (base, adapted))
        found.append(_row(file, reading, before, after))
    output = Output(asked.json)
    output.facts(
        {"run": str(settings.run), "model": trained.base.name, "average": settings.average, "length": settings.length,
         "files": found if asked.json else [_readable(row) for row in found]}
    )  # fmt: skip


def _row(file: Path, reading: Reading, before: tuple[float, float], after: tuple[float, float]) -> dict[str, Any]:
    finite = {
        "base_loss": before[0], "adapter_loss": after[0],
        "base_bits_per_byte": before[1], "adapter_bits_per_byte": after[1],
    }  # fmt: skip
    return {
        "file": str(file), "rows": len(reading.examples), **_counts(reading.counts),
        "tokens": reading.counts.target_tokens,
        **{name: value if math.isfinite(value) else None for name, value in finite.items()},
    }  # fmt: skip


def _counts(counts: RowCounts) -> dict[str, int]:
    return {f"rows_{name}": getattr(counts, name) for name in ("bad", "dropped", "cut", "rewritten")}


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    before, after = row["base_loss"], row["adapter_loss"]
    change = f"{(after - before) / before:+.2%}" if before and after is not None else None
    figures = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}
    return {**figures, "change_of_loss": change}
