"""From feedback to a silo: rows that may be trained on, each once, and a part of them that is held out for good."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flock_ray.errors import ConfigError, DataError
from flock_ray.market.feedback import Feedback, row_of
from flock_ray.market.licences import Strictness, strictness
from flock_ray.protocol.encoding import canonical_json, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.store.failures import store_error
from flock_ray.store.files import plain

SILO = Path("feedback.jsonl")
HELDOUT = Path("heldout/feedback.jsonl")
"""In a folder of its own: `data.path` may name the folder of the silo."""
COUNTS = Path("counts.json")
HELDOUT_BP = 1_000
_WHOLE = 10_000


@dataclass
class Counts:
    """What became of a store's rows.

    Attributes:
        read: all of them.
        no_consent: left out, as their users do not let them be trained on.
        no_lesson: left out: an answer that was disliked, and nobody said what would have been right.
        not_accepted: left out, by the licences that were not accepted.
        repeated: left out, as another one has the same conversation and the same answer.
        silo, heldout: written; by the licences that they stand under in `licences`.
        corrections: of those that were written, how many correct an answer; the others are answers that were liked.
    """

    read: int = 0
    no_consent: int = 0
    no_lesson: int = 0
    not_accepted: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    silo: int = 0
    heldout: int = 0
    corrections: int = 0
    licences: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """For `counts.json` and programs."""
        value: dict[str, Any] = plain(vars(self))
        return value


def export(
    store: Iterable[Feedback],
    folder: Path,
    accept: Iterable[str] = (),
    model: bytes | None = None,
    heldout_bp: int = HELDOUT_BP,
) -> Counts:
    """Write a silo, `feedback.jsonl`, with `heldout/feedback.jsonl` and `counts.json` beside it.

    A row has the conversation and the answer that it teaches, and nothing of who said it or when; rows are in the order
    of their hashes. Which conversations are held out follows from their own hash, so that none that was once held out
    is ever trained on, however much is added.

    Args:
        store: of feedback.
        folder: made, or empty.
        accept: licences that are not permissive and whose rows are taken, too.
        model: hash of the adapter whose answers are taken; None: those of all.
        heldout_bp: share of the conversations that is held out, in basis points.

    Returns:
        What became of the rows.

    Raises:
        ConfigError: the folder is not empty.
        DataError: nothing is left to train on.
        StoreError: the store or the disk fails.
    """
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise ConfigError(f"{folder} is there already, and not empty; name another folder, or remove it")
    counts, accepted = Counts(), {licence.lower() for licence in accept}
    lines: dict[bool, dict[bytes, bytes]] = {False: {}, True: {}}
    for said in store:
        if model is not None and said.model != model:
            continue
        counts.read += 1
        if _left_out(said, accepted, counts):
            continue
        row = row_of(said)
        digest, kept_out = sha256(canonical_json(row)), _is_heldout(row, heldout_bp)
        if digest in lines[kept_out]:
            counts.repeated += 1
            continue
        lines[kept_out][digest] = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        counts.licences[said.licence] += 1
        counts.corrections += bool(said.correction)
    counts.silo, counts.heldout = len(lines[False]), len(lines[True])
    if not counts.silo:
        raise DataError(
            f"no row of feedback is left to train on: of {counts.read} rows {counts.no_consent} are without consent,"
            f" {counts.no_lesson} without an answer to learn, {counts.not_accepted.total()} under licences that were"
            f" not accepted, {counts.heldout} held out"
        )
    _write(folder, lines, counts)
    return counts


def _left_out(said: Feedback, accepted: set[str], counts: Counts) -> bool:
    if not said.consent:
        counts.no_consent += 1
    elif not said.lesson.strip():
        counts.no_lesson += 1
    elif strictness(said.licence) > Strictness.permissive and said.licence.lower() not in accepted:
        counts.not_accepted[said.licence] += 1
    else:
        return False
    return True


def _is_heldout(row: Mapping[str, Any], heldout_bp: int) -> bool:
    """By the conversation alone: all that was said to answer it goes the same way."""
    asked = sha256(b"flock_ray/feedback_split/1" + canonical_json(row["messages"][:-1]))
    return int.from_bytes(asked[:8], "big") * _WHOLE < heldout_bp << 64


def _write(folder: Path, lines: Mapping[bool, Mapping[bytes, bytes]], counts: Counts) -> None:
    """Write the folder whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".exporting-"))
        try:
            for name, part in ((SILO, lines[False]), (HELDOUT, lines[True])):
                (draft / name).parent.mkdir(exist_ok=True)
                (draft / name).write_bytes(b"".join(part[digest] for digest in sorted(part)))
            told = counts.as_json() | {"sha256": to_hex(sha256((draft / SILO).read_bytes()))}
            (draft / COUNTS).write_text(json.dumps(told, indent=2) + "\n")
            draft.chmod(0o700)  # it is what people said
            if folder.exists():
                folder.rmdir()
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise store_error(error, "written", str(folder)) from None
