from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import DataError, ModelError
from flock_ray.lora.foreign import padded, with_rank
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, inject, load_adapter
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.ballot import MAX_SCORE
from flock_ray.protocol.contest_scores import strict_score
from flock_ray.training.contest import RowScorer, contest_rows, largest_rank
from flock_ray.training.data import IGNORED, Example
from flock_ray.training.loss import CausalLoss, sequence_losses
from flock_ray.training.model import load_base
from tests.training.samples import random_examples, tiny_spec

pytestmark = pytest.mark.model

TARGETS = ("all-linear",)
RANKS = {b"one": 2, b"two": 4, b"three": 1, b"four": 4}


@pytest.fixture(scope="module")
def adapters(tiny_model_dir: Path) -> dict[bytes, Adapter]:
    shapes = adapter_shapes(load_base(tiny_spec(tiny_model_dir)).model, TARGETS, 1)
    generator = torch.Generator().manual_seed(2)
    return {
        name: {
            key: torch.randn(shape, generator=generator) / 8 for key, shape in sorted(with_rank(shapes, rank).items())
        }
        for name, rank in RANKS.items()
    }


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return random_examples(7, 12)


def scorer(folder: Path, max_tokens: int = 1 << 16) -> RowScorer:
    return RowScorer(load_base(tiny_spec(folder)), TARGETS, 4, max_tokens)


def test_losses_are_those_of_plain_unmerged_peft(
    tiny_model_dir: Path, adapters: dict[bytes, Adapter], rows: list[Example]
) -> None:
    ours = scorer(tiny_model_dir).losses(adapters, rows)
    for name, adapter in adapters.items():
        model = inject(load_base(tiny_spec(tiny_model_dir)).model, LoraSpec(RANKS[name], RANKS[name], TARGETS))
        load_adapter(model, adapter)
        theirs = sequence_losses(CausalLoss(model, torch.float32), rows, torch.device("cpu"))
        for own, other in zip(ours[name], theirs, strict=True):
            assert abs(own - other.nll * 1e6) <= 10 * other.num_tokens  # 1e-5 nats a token
    assert len({losses for losses in ours.values()}) == len(RANKS)


def test_neither_batch_size_nor_order_nor_company_changes_a_score(
    tiny_model_dir: Path, adapters: dict[bytes, Adapter], rows: list[Example]
) -> None:
    together = scorer(tiny_model_dir).losses(adapters, rows)
    small = scorer(tiny_model_dir, max_tokens=64)
    turned = {name: adapters[name] for name in reversed(list(adapters))}
    apart = small.losses(turned, rows[::-1])
    alone = small.losses({b"two": adapters[b"two"]}, rows[:3])
    for name, losses in together.items():
        for row, (one, other) in zip(rows, zip(losses, apart[name][::-1], strict=True), strict=True):
            assert abs(one - other) <= row.num_labels + 1  # 1e-6 nats a token, and the rounding to micro-nats
    for row, one, other in zip(rows, together[b"two"], alone[b"two"], strict=False):
        assert abs(one - other) <= row.num_labels + 1


def test_an_adapter_that_blows_up_spoils_its_own_losses_only(
    tiny_model_dir: Path, adapters: dict[bytes, Adapter], rows: list[Example]
) -> None:
    blown = {key: factor * 1e30 for key, factor in adapters[b"two"].items()}
    measured = scorer(tiny_model_dir).losses(adapters | {b"blown": blown}, rows)
    honest = scorer(tiny_model_dir).losses(adapters, rows)
    assert set(measured[b"blown"]) == {MAX_SCORE}
    for name, losses in honest.items():
        assert all(abs(a - b) <= row.num_labels + 1 for row, a, b in zip(rows, measured[name], losses, strict=True))


def test_rows_are_what_is_scored(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("def answer(self): return é", add_special_tokens=False).input_ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert isinstance(end, int)
    example = Example.of([1, *ids, end], [False] * 3 + [True] * (len(ids) - 1))
    (row,) = contest_rows([example], tokenizer, "set A")
    text = tokenizer.decode(ids[2:])
    assert isinstance(text, str)
    assert (row.num_tokens, row.num_bytes) == (len(ids) - 1, len(text.encode()))
    other = Example.of([1, *ids, end], [False] * 4 + [True] * (len(ids) - 2))
    assert contest_rows([other], tokenizer, "set A")[0].digest != row.digest
    assert strict_score([2_000_000 * row.num_tokens], [row]) == 2_000_000
    empty = Example(example.input_ids, torch.full_like(example.labels, IGNORED), example.sample_id)
    only_end = Example.of([1, *ids, end], [False] * (len(ids) + 1) + [True])
    for bad in (empty, only_end):
        with pytest.raises(DataError, match="set A: row 2 has no target"):
            contest_rows([example, bad], tokenizer, "set A")


def test_a_base_in_half_precision_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="float32"):
        RowScorer(load_base(tiny_spec(tiny_model_dir, "bfloat16")), TARGETS, 4, 64)


def test_ranks(adapters: dict[bytes, Adapter]) -> None:
    assert largest_rank(list(adapters.values())) == 4 == largest_rank([padded(adapters[b"three"], 4)])
