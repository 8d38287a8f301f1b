from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.runs import Head, Run

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")  # before torch is imported
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # for a head, its clients and job submission alike
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _save_tokenizer(folder: Path) -> int:
    """Byte-level BPE trained on source code of the standard library; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sources = sorted(Path(sysconfig.get_path("stdlib"), "json").glob("*.py"))
    tokenizer.train([str(source) for source in sources], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    return len(fast)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a real two-layer Llama with random weights, and its tokenizer: `model=folder model.path=<this>`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "model"
    vocabulary = _save_tokenizer(folder)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def lifted_recursion_limit() -> Iterator[None]:
    """As Ethereum libraries leave it, and further: a parser that recurses by the input overflows the C stack."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1 << 20)
    yield
    sys.setrecursionlimit(limit)


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A Ray cluster that the runs of all tests share: starting one costs seconds."""
    from tests.runs import ray_head

    with ray_head() as started:
        yield started


@pytest.fixture(scope="session")
def whole_run(head: Head, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny run on one node group that nothing disturbed. Its folder is shared: tests only read it."""
    from tests.runs import tiny

    return head.run(tmp_path_factory.mktemp("whole"), *tiny(tiny_model_dir))
