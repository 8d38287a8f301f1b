from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
)

from flock_ray.errors import ModelError, WorkerMemoryError
from flock_ray.lora.peft_io import LoraSpec
from flock_ray.training.architecture import architecture_errors, choose_backend, left_out, skeleton, why_not_stacked

pytestmark = pytest.mark.model

SMALL: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=512, head_dim=8, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
GPT2: dict[str, Any] = dict(n_embd=32, n_layer=2, n_head=4, vocab_size=512, bos_token_id=1, eos_token_id=2)
ALL = LoraSpec(4, 8, ("all-linear",))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LlamaConfig(**SMALL), ""),
        (Qwen2Config(**SMALL, sliding_window=16), ""),  # it uses no window unless told so
        (MixtralConfig(**SMALL, num_local_experts=4), ""),
        (MistralConfig(**SMALL, sliding_window=32), ""),
        (MistralConfig(**SMALL, sliding_window=31), "attention has a window of 31 tokens, and sequences have up to 32"),
        (Gemma2Config(**SMALL, sliding_window=16), "attention has a soft cap"),
        (Gemma3TextConfig(**SMALL, sliding_window=16), "attention has a window of 16 tokens"),
        (Llama4TextConfig(**SMALL, num_local_experts=2, attention_chunk_size=16), "attention has a window of 16"),
        (GptOssConfig(**SMALL, num_local_experts=4, sliding_window=64), "attention has sinks"),
        (MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=512), "(mamba) carries a state from token to"),
        (
            BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=512),
            "the attention of this model (bloom) cannot be replaced",
        ),
    ],
)
def test_members_share_batches_where_attention_is_plainly_causal(config: Any, reason: str) -> None:
    model = skeleton(config)
    found = why_not_stacked(model, 32)
    assert reason in found and bool(reason) == bool(found)
    assert choose_backend(model, "auto", 32) == ("sequential" if reason else "stacked", found)
    assert choose_backend(model, "sequential", 32) == ("sequential", "")
    for asked in ("stacked", "grouped"):
        if reason:
            with pytest.raises(ModelError, match=rf"training\.backend={asked} does not do: take training\.backend=seq"):
                choose_backend(model, asked, 32)
        else:
            assert choose_backend(model, asked, 32) == (asked, "")


def test_experts_that_no_adapter_reaches_are_told() -> None:
    model = skeleton(MixtralConfig(**SMALL, num_local_experts=4))
    assert "leaves out the experts (56% of the weights)" in left_out(model, ALL)
    assert left_out(model, LoraSpec(4, 8, ("q_proj",))) == ""
    assert left_out(skeleton(LlamaConfig(**SMALL)), ALL) == ""


def test_a_model_without_linear_layers_is_refused() -> None:
    for targets in (("all-linear",), ("c_attn",)):
        with pytest.raises(ModelError, match=r"no nn\.Linear layer but .* 8 Conv1D layers, as in GPT-2"):
            left_out(skeleton(GPT2Config(**GPT2)), LoraSpec(4, 8, targets))


def test_what_other_libraries_raise_becomes_one_line_and_memory_stays_what_it_is() -> None:
    with pytest.raises(ModelError, match=r"^m cannot be trained: KeyError: 'layers'$"), architecture_errors("m"):
        raise KeyError("layers")
    for error in (ModelError("ours"), WorkerMemoryError("ours"), MemoryError(), torch.OutOfMemoryError()):
        with pytest.raises(type(error)), architecture_errors("m"):
            raise error
