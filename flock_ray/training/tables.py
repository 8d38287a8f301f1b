"""Rows of tables, and of data sets of the Hugging Face hub; all but csv and tsv by the optional package `datasets`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from flock_ray.errors import DataError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
TABLES = (*_SEPARATORS, ".parquet")
"""Suffixes of tables."""


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
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs of a failure may hold some of the data
    module: ModuleType = datasets
    return module


def table_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a csv, tsv or parquet file, read as they come: no copy is left in a cache.

    Raises:
        DataError: the package is missing, or the file does not read.
        OSError: it cannot be opened.
    """
    if separator := _SEPARATORS.get(file.suffix):
        yield from _separated(file, separator)
        return
    datasets = _datasets(f"data.path: {file}")
    try:
        yield from datasets.load_dataset("parquet", data_files=str(file), split="train", streaming=True)
    except Exception as error:  # of pyarrow, datasets: their texts may hold some of the data
        raise DataError(f"data.path: {file} does not read as parquet ({type(error).__name__})") from None


def _separated(file: Path, separator: str) -> Iterator[dict[str, Any]]:
    """Rows of a csv or tsv file. Every cell is a text, `7` and `NA` as well; an empty one is not there."""
    csv.field_size_limit(2**31 - 1)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        table = csv.reader(stream, delimiter=separator, strict=True)
        try:
            names = next(table, [])
            if len(set(names)) < len(names):
                raise DataError(f"data.path: {file} has several columns of one name")
            for cells in filter(None, table):
                if any(cells[len(names) :]):
                    raise DataError(f"data.path: {file}:{table.line_num} has more cells than the first line has names")
                yield {name: cell or None for name, cell in zip(names, cells, strict=False)}
        except UnicodeDecodeError:
            raise DataError(f"data.path: {file} does not read as csv: it is not UTF-8 text") from None
        except csv.Error as error:  # its texts hold none of the data
            raise DataError(f"data.path: {file}:{table.line_num} does not read as csv: {error}") from None


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
