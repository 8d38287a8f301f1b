"""Rows of tables and of data sets of the Hugging Face hub, through the optional package `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from flock_ray.errors import DataError

TABLES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""Suffixes of tables, and what `datasets` calls their kind."""


def _datasets(what: str) -> ModuleType:
    """The package, quiet.

    Raises:
        DataError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{what} is read through the package datasets, which is not installed: pip install 'flock-ray[datasets]'"
        ) from None
    datasets.disable_progress_bars()
    module: ModuleType = datasets
    return module


def table_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a csv, tsv or parquet file, read as they come: no copy is left in a cache.

    Raises:
        DataError: the package is missing, or the file does not read.
    """
    datasets = _datasets(f"data.path: {file}")
    options = {"sep": "\t"} if file.suffix == ".tsv" else {}
    try:
        table = datasets.load_dataset(
            TABLES[file.suffix], data_files=str(file), split="train", streaming=True, **options
        )
        yield from table
    except Exception as error:  # of pandas, pyarrow, datasets: their texts may hold some of the data
        raise DataError(f"data.path: {file} does not read as {TABLES[file.suffix]} ({type(error).__name__})") from None


def hub_rows(name: str) -> Iterator[dict[str, Any]]:
    """Rows of a data set of the hub, `ORG/NAME`, `ORG/NAME:SPLIT` or `ORG/NAME:CONFIG:SPLIT`; or of a local folder.

    A split may be a slice, `train[:1000]`; it is `train` unless named.

    Raises:
        DataError: the package is missing, or the data set cannot be fetched.
    """
    datasets = _datasets(f"data.path: {name}")
    plain, bracket, within = name.partition("[")  # a slice holds a colon of its own
    head, *config, split = plain.split(":", 2) if ":" in plain else (plain, "train")
    split += bracket + within
    try:
        yield from datasets.load_dataset(head, *config, split=split)
    except Exception as error:  # the hub's errors have no class in common
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"data.path: the data set {name} cannot be loaded: {reason}") from None
