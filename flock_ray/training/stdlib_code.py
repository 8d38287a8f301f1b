"""Silos that every machine has: the source code of Python standard library packages, without tests."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.training.counts import RowCounts
from flock_ray.training.data import DataSpec, Example, Reading

_TESTS = {"test", "tests", "idle_test"}


def read(spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase) -> Reading:
    """Chunks that predict `sequence_length` tokens each of the member's package, files in sorted order.

    A chunk begins with the last token of the previous one, so that each token is predicted once.

    Raises:
        DataError: there is no package for this member, or the interpreter lacks it.
    """
    files = files_of(spec, member)
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    length = spec.sequence_length
    chunks = [ids[start : start + length + 1] for start in range(0, len(ids) - length, length)]
    examples = [Example.of(chunk, [False] + [True] * length) for chunk in chunks]
    return Reading(spec.packages[member], examples, RowCounts(read=len(chunks), target_tokens=len(chunks) * length))


def files_of(spec: DataSpec, member: int) -> list[Path]:
    """The source files of the member's package, sorted.

    Raises:
        DataError: there is no package for this member, or the interpreter lacks it.
    """
    library = Path(sysconfig.get_path("stdlib"))
    if member >= len(spec.packages):
        raise DataError(
            f"data.packages names {len(spec.packages)} packages, none for member {member}; lower alliance.num_members"
            " or name more"
        )
    package = spec.packages[member]
    files = sorted((library / package).rglob("*.py")) if package.isidentifier() else []
    files = [file for file in files if not _TESTS & set(file.relative_to(library).parts)]
    if not files:
        raise DataError(
            f"data.packages: the standard library in {library} has no package {package!r} (member {member})"
        )
    return files
