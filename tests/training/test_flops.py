from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flock_ray.lora.peft_io import LoraSpec
from flock_ray.training.flops import FlopCounter, gemm_rate, mfu

pytestmark = pytest.mark.model

# Two layers of width 16, four heads of four, of which two are keys', 32 wide inside; 64 tokens in the vocabulary.
QUERY_AND_OUTPUT, KEY_AND_VALUE, INNER = 2 * 16 * 16, 2 * 16 * 8, 3 * 16 * 32
LINEAR = 2 * (QUERY_AND_OUTPUT + KEY_AND_VALUE + INNER)
HEAD = 64 * 16
ADAPTER = 2 * 4 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 32))
ATTENTION = 2 * 4 * 4


def counter(targets: tuple[str, ...] = ("all-linear",), freeze_a: bool = False) -> FlopCounter:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return FlopCounter.of(LlamaForCausalLM(config), LoraSpec(4, 8, targets, freeze_a))


def test_sizes_are_those_of_the_model() -> None:
    assert counter() == FlopCounter(LINEAR, HEAD, ADAPTER, ATTENTION)
    assert counter(("q_proj",)) == FlopCounter(LINEAR, HEAD, 2 * 4 * (16 + 16), ATTENTION)
    assert (LINEAR, ADAPTER) == (4608, 2048)


def test_training_counts_what_is_done_by_hand() -> None:
    """Sequences of 10 and 6 tokens, 9 of them labelled."""
    tokens = 4 * LINEAR * 16 + 6 * ADAPTER * 16  # 294_912 + 196_608
    labels = 4 * HEAD * 9  # 36_864
    attention = 6 * ATTENTION * (100 + 36)  # 26_112: half of QK^T and AV, once forward and twice backward
    assert counter().training([10, 6], 9) == tokens + labels + attention == 554_496


def test_frozen_factors_have_no_gradient_to_be_counted() -> None:
    num_a = 2 * 4 * (6 * 16 + 32)  # of a layer's seven inputs all but the last are as wide as the model
    frozen = counter(freeze_a=True)
    assert counter().training([10, 6], 9) - frozen.training([10, 6], 9) == 2 * 16 * frozen.frozen_weights
    assert frozen.frozen_weights == num_a


def test_mfu_is_a_share_of_the_rate() -> None:
    assert mfu(flops=3e9, seconds=2.0, rate=5e9) == pytest.approx(0.3)


def test_gemm_rate_measures_each_size() -> None:
    rates = gemm_rate(torch.float32, torch.device("cpu"), sizes=(32, 64), repeats=2)
    assert set(rates) == {32, 64}
    assert all(rate > 0 for rate in rates.values())
