"""Private silos: examples to train on, and a held-out part that never trains; read by the hosting process only."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError
from flock_ray.protocol.hashing import sha256
from flock_ray.training.counts import RowCounts
from flock_ray.training.files import SiloFiles

IGNORED = -100
"""Label of a token that carries no loss."""


@dataclass(frozen=True)
class DataSpec:
    """Where the members' data is and how it is split; the fields are those of the `data` configuration group.

    Attributes:
        path: glob, folder, or mapping of member number to file (`jsonl`), to data set (`hub`) or to both, or a package,
            with its kind (`mixed`).
        packages: one per member (`stdlib_code`).
        sequence_length: longest example, in tokens.
        heldout_fraction: share of a silo that never trains.
        heldout_tokens: labelled tokens that a score and an evaluation use.
        seed: of the split.
        heldout_sequences: fewest sequences that a score and an evaluation may use.
        max_bad_rows: rows of a member that are skipped because they cannot be read, before that is an error.
        template_date: date that a chat template is told, YYYY-MM-DD.
    """

    kind: str
    path: Any
    packages: tuple[str, ...]
    sequence_length: int
    heldout_fraction: float
    heldout_tokens: int
    seed: int
    heldout_sequences: int
    max_bad_rows: int
    template_date: str

    @cached_property
    def files(self) -> SiloFiles:
        """Whose file is whose (`jsonl`), as it was when this was first asked for; another machine looks itself.

        Raises:
            DataError: as `SiloFiles`.
        """
        return SiloFiles(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "files"}

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: a chunk of code that predicts `sequence_length` of them has one more."""
        return self.sequence_length + (self.kind in ("stdlib_code", "mixed"))


@dataclass(frozen=True, eq=False)
class Example:
    """One sequence.

    Attributes:
        input_ids: [s] int64.
        labels: [s] int64, the token itself where it carries loss, else `IGNORED`.
        sample_id: SHA-256 of the token ids.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    sample_id: bytes

    @classmethod
    def of(cls, ids: Sequence[int], has_loss: Sequence[bool]) -> Example:
        """An example from token ids and, for each, whether it carries loss."""
        tokens = torch.tensor(ids, dtype=torch.long)
        mask = torch.tensor(has_loss, dtype=torch.bool)
        return cls(tokens, tokens.masked_fill(~mask, IGNORED), sha256(tokens.numpy().tobytes()))

    @cached_property
    def num_labels(self) -> int:
        """Number of tokens that are predicted; the first token is not, as nothing precedes it."""
        return int((self.labels[1:] != IGNORED).sum())


@dataclass(frozen=True)
class Reading:
    """What a source reads of a member.

    Attributes:
        name: for people; no part of the data.
        examples: in the order of the data.
        counts: what became of the rows.
    """

    name: str
    examples: list[Example]
    counts: RowCounts


@dataclass(frozen=True)
class Silo:
    """One member's data.

    Attributes:
        name: for people; no part of the data.
        train: examples to draw batches from.
        heldout: exactly the examples that scores and evaluations use.
        counts: what became of its rows.
    """

    name: str
    train: tuple[Example, ...]
    heldout: tuple[Example, ...]
    counts: RowCounts = field(default_factory=RowCounts)

    @property
    def num_train_tokens(self) -> int:
        """Predicted tokens of the train part."""
        return sum(example.num_labels for example in self.train)

    def sample_digest(self, salt: bytes, used: Sequence[Example]) -> bytes:
        """Salted digest (32 bytes) of the samples used; it reveals nothing without the salt and the samples."""
        ids = b"".join(sorted({example.sample_id for example in used}))
        return sha256(b"flock_ray/samples/1" + salt + ids)


Source = Callable[[DataSpec, int, PreTrainedTokenizerBase], Reading]
"""Reads a member's silo, given (spec, member, tokenizer); its DataErrors contain none of the text."""


def sources() -> dict[str, Source]:
    """The data sources by `data.kind`. To add one, write a file with a `read` function and add a line here."""
    from flock_ray.training import jsonl, mixed, stdlib_code

    return {"stdlib_code": stdlib_code.read, "jsonl": jsonl.read, "hub": jsonl.read_hub, "mixed": mixed.read}


def num_target_bytes(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> int:
    """UTF-8 bytes of the text that the predicted tokens spell, special tokens left out: for bits per byte."""
    targets = [example.labels[1:][example.labels[1:] != IGNORED].tolist() for example in examples]
    return sum(len(text.encode()) for text in tokenizer.batch_decode(targets, skip_special_tokens=True))


def read_silo(spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase) -> Reading:
    """What a member's silo holds, whatever the seed of the split.

    Raises:
        DataError: the silo is missing or malformed; the text names file and line, never the data.
    """
    known = sources()
    if spec.kind not in known:
        raise DataError(f"data.kind is {spec.kind!r}; it must be one of {', '.join(known)}")
    return known[spec.kind](spec, member, tokenizer)


def split_silo(reading: Reading, spec: DataSpec, member: int) -> Silo:
    """A silo that was read, split; errors as in `split`."""
    counts = reading.counts
    return replace(split(reading.name, reading.examples, spec, member, counts.dropped), counts=counts)


def load_silo(spec: DataSpec, member: int, tokenizer: PreTrainedTokenizerBase) -> Silo:
    """Read a member's silo and split it; errors as in `read_silo` and `split`."""
    return split_silo(read_silo(spec, member, tokenizer), spec, member)


def split(name: str, examples: Sequence[Example], spec: DataSpec, member: int, dropped: int = 0) -> Silo:
    """Split off the held-out part after a seeded shuffle; train examples equal to a held-out one are dropped.

    Args:
        name: of the silo.
        examples: in the order of the data.
        spec: of the data.
        member: whose.
        dropped: rows that are not among the examples, as nothing of them is learned.

    Raises:
        DataError: the silo is too small for both parts.
    """
    order = list(examples)
    random.Random(spec.seed + member).shuffle(order)
    tokens = list(accumulate(example.num_labels for example in order))
    num_used = bisect_left(tokens, spec.heldout_tokens) + 1
    num_heldout = max(num_used, int(len(order) * spec.heldout_fraction))
    if num_heldout >= len(order):
        why = f"; {dropped} rows more have no assistant's token within data.sequence_length = {spec.sequence_length}"
        raise DataError(
            f"silo {name} of member {member} is too small: {len(order)} sequences with {tokens[-1] if tokens else 0}"
            f" tokens to predict, of which {spec.heldout_tokens} are held out (data.heldout_tokens) and some must"
            f" remain for training{why * (dropped > 0)}"
        )
    if num_used < spec.heldout_sequences:
        raise DataError(
            f"silo {name} of member {member} has {num_used} held-out sequences for data.heldout_tokens ="
            f" {spec.heldout_tokens}; it must be at least {spec.heldout_sequences} (data.heldout_sequences), or its"
            " scores say little: raise data.heldout_tokens"
        )
    kept_out = {example.sample_id for example in order[:num_heldout]}
    train = tuple(example for example in order[num_heldout:] if example.sample_id not in kept_out)
    if not train:
        raise DataError(f"silo {name} of member {member} has no train part: all its rows are copies of held-out ones")
    return Silo(name, train, tuple(order[:num_used]))


def batches(silo: Silo, steps: int, batch_size: int, seed: int) -> list[list[Example]]:
    """`steps` batches of `batch_size` train examples, drawn pass by pass in a seeded order."""
    stream = random.Random(seed)
    queue: list[Example] = []
    drawn = []
    for _ in range(steps):
        while len(queue) < batch_size:
            passed = list(silo.train)
            stream.shuffle(passed)
            queue += passed
        drawn.append(queue[:batch_size])
        queue = queue[batch_size:]
    return drawn
