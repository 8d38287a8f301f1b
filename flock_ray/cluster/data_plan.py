"""Whose data is where, and what of it would train: for the plan, where this machine hosts the members."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from flock_ray.cluster.data_table import show_rows
from flock_ray.cluster.placement import num_silos
from flock_ray.config import ClusterMode, Config
from flock_ray.telemetry.table import Console
from flock_ray.training.counts import RowCounts
from flock_ray.training.files import resolve

if TYPE_CHECKING:
    from flock_ray.training.data import DataSpec
    from flock_ray.training.model import ModelSpec

MAX_SILOS = 64
"""In a plan: reading takes a second for some thousands of rows."""


def show_data(config: Config, console: Console) -> None:
    """Tell which file goes to which member; with `plan_only`, also what becomes of its rows.

    This process opens no file. Another one reads them, and hands counts back. Nothing is fetched from a hub.

    Raises:
        DataError: a member has no file; or its data is refused.
        ModelError: the tokenizer does not load.
    """
    if config.data.kind != "jsonl":
        return
    if config.cluster.mode is not ClusterMode.local:
        console.line(f"Data: data.path={config.data.path} is looked up on the nodes that host the members")
        return
    silos = range(num_silos(config))
    files = [f"  member {silo}: {resolve(config.data.path, silo)}" for silo in silos]
    more = [f"  and {len(files) - MAX_SILOS} more"] if len(files) > MAX_SILOS else []
    console.line("\n".join(["Data:", *files[:MAX_SILOS], *more]))
    if config.plan_only and config.model.source != "hub":
        show_rows(console, count_rows(config, silos[:MAX_SILOS]), config.data.sequence_length)


def count_rows(config: Config, silos: Sequence[int]) -> list[tuple[int, str, RowCounts]]:
    """(number, name, counts) of silos, read by a process of their own.

    Raises:
        DataError, ModelError: what that process raised.
    """
    from flock_ray.cluster.launch import data_spec, model_spec  # imports torch

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as reader:
        return reader.submit(_count, model_spec(config, "cpu"), data_spec(config), silos).result()


def _count(model: ModelSpec, data: DataSpec, silos: Sequence[int]) -> list[tuple[int, str, RowCounts]]:
    from flock_ray.training.data import load_silo
    from flock_ray.training.model import load_tokenizer

    tokenizer = load_tokenizer(model)
    read = ((silo, load_silo(data, silo, tokenizer)) for silo in silos)
    return [(number, silo.name, silo.counts) for number, silo in read]
