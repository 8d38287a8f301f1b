from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from flock_ray.training.model import BaseModel
    from flock_ray.training.torch_engine import TorchEngine
    from tests.training.ranks import Ranks

USER_CACHE = os.environ.get("FLOCK_RAY_CACHE", "")


@pytest.fixture(scope="package", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Remembered hashes of temporary model folders stay out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOCK_RAY_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="package")
def smollm2() -> PreTrainedTokenizerBase:
    """The packaged model's tokenizer, with its chat template; `make setup` has converted it."""
    from tests.training.labelled import smollm2_tokenizer

    return smollm2_tokenizer()


@pytest.fixture(scope="package")
def tokenizer(tiny_model_dir: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="package")
def base(tiny_model_dir: Path) -> BaseModel:
    """As loaded; engines change theirs."""
    from flock_ray.training.model import load_base
    from tests.training.samples import tiny_spec

    return load_base(tiny_spec(tiny_model_dir))


@pytest.fixture(scope="package")
def engine(tiny_model_dir: Path) -> TorchEngine:
    from flock_ray.training.model import load_base
    from flock_ray.training.torch_engine import TorchEngine
    from tests.training.samples import LORA, tiny_spec

    return TorchEngine(load_base(tiny_spec(tiny_model_dir)), LORA)


@pytest.fixture(scope="package")
def ranks() -> Iterator[Ranks]:
    """Two ranks that all tests share: importing DeepSpeed costs seconds."""
    from tests.training.ranks import two_ranks

    with two_ranks() as started:
        yield started
