"""`flock-ray evaluate`: what a run trained, measured on other data, beside its base model."""

from __future__ import annotations

import glob
import math
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from flock_ray.cluster.launch import group_specs
from flock_ray.cluster.placement import make_plan
from flock_ray.commands.output import Output
from flock_ray.commands.settings import EvaluateSettings, read_settings
from flock_ray.commands.trained import Trained, load_trained
from flock_ray.errors import DataError
from flock_ray.protocol.metrics import bits_per_byte
from flock_ray.training.data import DataSpec, Example, num_target_bytes, sources
from flock_ray.training.engine import LossJob, SequenceLoss
from flock_ray.training.torch_engine import TorchEngine


def read_rows(spec: DataSpec, trained: Trained, length: int) -> tuple[list[Example], int]:
    """The rows of a file, cut to `length` tokens, and how many were cut.

    Raises:
        DataError: the file is malformed or empty.
    """
    read = sources()["jsonl"](replace(spec, sequence_length=length + 1), 0, trained.base.tokenizer)
    rows = [
        Example(row.input_ids[:length], row.labels[:length], row.sample_id) if len(row.input_ids) > length else row
        for row in read[1]
    ]
    kept = [row for row in rows if row.num_labels]
    if not kept:
        raise DataError(f"{spec.path['0']} has no row with a token to predict within length={length}")
    return kept, sum(len(row.input_ids) > length for row in read[1])


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
    files = sorted(glob.glob(os.path.expanduser(settings.data), recursive=True))
    if not files:
        raise DataError(f"data={settings.data} matches no file; give a file of conversations, or a glob of such files")
    trained = load_trained(settings.run, settings.threads)
    config = trained.config
    spec = replace(group_specs(config, make_plan(config), settings.run, "")[0].data, kind="jsonl")
    engine = TorchEngine(trained.base, trained.spec)
    nothing = {key: torch.zeros_like(factor) for key, factor in trained.adapter.items()}
    found = []
    for file in files:
        rows, cut = read_rows(replace(spec, path={"0": file}), trained, settings.length)
        base, adapted = engine.losses([LossJob(nothing, rows), LossJob(trained.adapter, rows)])
        sizes = [num_target_bytes(trained.base.tokenizer, [row]) for row in rows]
        before, after = (figures(losses, sizes, settings.average) for losses in (base, adapted))
        found.append(_row(file, rows, cut, before, after))
    output = Output(asked.json)
    output.facts(
        {"run": str(settings.run), "model": trained.base.name, "average": settings.average, "length": settings.length,
         "files": found if asked.json else [_readable(row) for row in found]}
    )  # fmt: skip


def _row(
    file: str, rows: Sequence[Example], cut: int, before: tuple[float, float], after: tuple[float, float]
) -> dict[str, Any]:
    finite = {
        "base_loss": before[0], "adapter_loss": after[0],
        "base_bits_per_byte": before[1], "adapter_bits_per_byte": after[1],
    }  # fmt: skip
    return {
        "file": file, "rows": len(rows), "rows_cut": cut, "tokens": sum(row.num_labels for row in rows),
        **{name: value if math.isfinite(value) else None for name, value in finite.items()},
    }  # fmt: skip


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    before, after = row["base_loss"], row["adapter_loss"]
    change = f"{(after - before) / before:+.2%}" if before and after is not None else None
    figures = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}
    return {**figures, "change_of_loss": change}
