"""What tests need is a mark; fixtures of whole runs and models; `--fast` for the tests that need nothing.

A module that imports Ray or transformers, or whose tests all need the same, says so in one line, `pytestmark = …`: with
`--fast` it isn't even imported. Tests of other modules carry marks of their own, or get them from their fixtures here.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.runs import Head, Run

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")  # before torch is imported
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # for a head, its clients and job submission alike
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

gc.disable()  # until the tests are collected: what is loaded by then stays, and takes long to look through

# A busy machine is no failure: neither an example nor drawing it has a time limit.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

NEEDS = ("ray", "chain", "anvil", "browser", "model", "deep")
"""Marks of tests that `--fast` leaves out; `pyproject.toml` says what each stands for."""
NEEDS_OF_FIXTURES = {
    "head": "ray",
    "ranks": "ray",
    "tiny_model_dir": "model",
    "smollm2": "model",
    "backend": "chain",
    "shared_world": "chain",
}
"""Tests that use one of these, also by way of others, get its mark."""
MARKED_WHOLE = re.compile(rf"^pytestmark = .*\bmark\.({'|'.join(NEEDS)})\b", re.MULTILINE)
HEAVY: tuple[str, ...] = ("ray", "transformers", "peft", "deepspeed", "eth_tester")
"""What no test of `--fast` imports: each takes seconds, and is there for what a mark stands for."""

FAST_EXAMPLES = 25
"""Of a property that names no number; else 100."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help=f"only tests without a mark of {', '.join(NEEDS)}")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):  # what needs one of these lacks a mark, and fails
        sys.modules.update(dict.fromkeys(HEAVY))  # type: ignore[arg-type]
        os.environ["FLOCK_RAY_ANVIL"] = "nothing (--fast)"
        settings.register_profile("tests", settings.get_profile("tests"), max_examples=FAST_EXAMPLES)
        settings.load_profile("tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--fast") or collection_path.suffix != ".py":
        return None
    return bool(MARKED_WHOLE.search(collection_path.read_text())) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for need in {need for name, need in NEEDS_OF_FIXTURES.items() if name in getattr(item, "fixturenames", ())}:
            item.add_marker(need)
        if item.get_closest_marker("anvil"):
            item.add_marker("chain")
    if config.getoption("--fast"):
        needy = [item for item in items if any(map(item.get_closest_marker, NEEDS))]
        config.hook.pytest_deselected(items=needy)
        items[:] = [item for item in items if item not in needy]
    if config.getoption("dist", "no") == "loadgroup":
        _share_out(items)


def _share_out(items: list[pytest.Item]) -> None:
    """Among pytest-xdist's workers: tests on the shared cluster to one, those that start Ray to one, others by file."""
    groups = {item: _group(item) for item in items}
    items.sort(key=lambda item: (groups[item] != "head", groups[item] != "ray"))  # the longest shares are begun first
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item]))


def _group(item: pytest.Item) -> str:
    if "head" in getattr(item, "fixturenames", ()):
        return "head"
    return "ray" if item.get_closest_marker("ray") else item.location[0]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("anvil"):
        from flock_ray.chain.anvil import find_anvil

        if find_anvil() is None:
            pytest.skip("no anvil binary (npm install in contracts/ brings one)")


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
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny_model(folder)
    return folder


def save_tiny_model(folder: Path) -> None:
    """Write the model of `tiny_model_dir`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

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


@pytest.fixture(scope="session")
def chainless_run(head: Head, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """As `whole_run`, on two node groups and without a chain."""
    from tests.runs import tiny

    return head.run(tmp_path_factory.mktemp("chainless"), *tiny(tiny_model_dir, "chain=none", "cluster.nodes=2"))


@pytest.fixture(scope="session")
def whole_contest(head: Head, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny contest on two node groups that nothing disturbed. Its folder is shared: tests only read it."""
    from tests.contests import configure, overrides_of, play

    config = configure(*overrides_of(tiny_model_dir, tmp_path_factory.mktemp("rows")))
    return play(head, tmp_path_factory.mktemp("contest"), config)
