"""What is learned of a row, as text."""

from __future__ import annotations

from itertools import groupby

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from flock_ray.errors import ModelError
from flock_ray.training.labels import Encoded
from flock_ray.training.model import prepare_packaged
from tests.training.conftest import USER_CACHE


def smollm2_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer of the packaged model of one's own; `make setup` has converted it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOCK_RAY_CACHE", USER_CACHE)
        try:
            return AutoTokenizer.from_pretrained(prepare_packaged())
        except ModelError as error:
            pytest.skip(str(error))


def answers(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> list[str]:
    """The texts of the stretches that are learned."""
    pairs = zip(encoded.ids, encoded.has_loss, strict=True)
    runs = [(loss, [token for token, _ in run]) for loss, run in groupby(pairs, key=lambda pair: pair[1])]
    return [str(tokenizer.decode(ids)) for loss, ids in runs if loss]
