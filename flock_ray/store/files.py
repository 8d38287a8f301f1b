"""Files of a run that people and programs read: written whole or not at all, and read back as what they should be."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from flock_ray.errors import RunDirectoryError
from flock_ray.store.failures import run_folder_errors


def plain(value: object) -> Any:
    """A value as JSON has it: bytes as 0x-hex, dataclasses as objects, enums by value, NaN and infinities as null.

    Raises:
        TypeError: for anything that has no plain form, a tensor say.
    """
    if value is None or (isinstance(value, (bool, str, int)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    raise TypeError(f"{type(value).__name__} has no plain JSON form")


def write_json(path: str | Path, obj: object) -> None:
    """Write a value as a JSON file, whole or not at all."""
    write_text(path, json.dumps(plain(obj), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: str | Path, content: str) -> None:
    """Write a file whole or not at all: a reader never sees half of it, and a crash leaves the old one.

    Raises:
        RunDirectoryError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    draft = path.with_name(path.name + ".part")
    with run_folder_errors(path):
        with open(draft, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        RunDirectoryError: the file is missing or damaged.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunDirectoryError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise RunDirectoryError(f"{path} is no JSON file: {error}") from None
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{path} holds no JSON object")
    return value
