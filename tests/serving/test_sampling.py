from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.serving.request import Sampling
from flock_ray.serving.sampling import Sampler, nucleus, score


def some_logits(size: int, seed: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


@given(st.integers(0, 99), st.integers(0, 60), st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]))
def test_a_nucleus_is_the_fewest_likeliest_tokens_that_reach_the_share(seed: int, top_k: int, top_p: float) -> None:
    odds = torch.softmax(some_logits(50, seed).double(), 0)
    found = nucleus(odds, top_k, top_p)
    ranked = sorted(odds.tolist(), reverse=True)[: top_k or 50]
    reached, expected = 0.0, 0
    while expected < len(ranked) and (reached < top_p * sum(ranked) or not expected):
        reached += ranked[expected]
        expected += 1
    if found is None:
        assert top_p == 1 and top_k in (0, *range(50, 61))
    elif top_p < 1:
        assert len(found) == expected
        assert sorted(odds[found].tolist(), reverse=True) == pytest.approx(ranked[:expected])
    else:
        assert len(found) == min(top_k, 50)


def test_a_flat_nucleus_is_found_beyond_the_first_look() -> None:
    odds = torch.full((5_000,), 1 / 5_000, dtype=torch.float64)
    found = nucleus(odds, 0, 0.5)
    assert found is not None and 2_499 <= len(found) <= 2_501
    assert len(nucleus(odds, 3_000, 0.5)) in (1_499, 1_500, 1_501)  # type: ignore[arg-type]


def test_draws_follow_the_odds() -> None:
    logits = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.125]))
    sampler = Sampler(Sampling(temperature=1.0, seed=1))
    drawn = [sampler.choose(logits) for _ in range(4_000)]
    for token, share in enumerate([0.5, 0.25, 0.125, 0.125]):
        assert drawn.count(token) / 4_000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4_000))
    cut = Sampler(Sampling(temperature=1.0, top_k=2, seed=1))
    few = [cut.choose(logits) for _ in range(2_000)]
    assert set(few) == {0, 1} and few.count(0) / 2_000 == pytest.approx(2 / 3, abs=0.045)


def test_a_seed_is_a_sequence_and_zero_is_the_likeliest() -> None:
    logits = some_logits(300, 3)
    one, two, other = (Sampler(Sampling(temperature=1.0, seed=seed)) for seed in (7, 7, 8))
    assert [one.choose(logits) for _ in range(20)] == [two.choose(logits) for _ in range(20)]
    assert [other.choose(logits) for _ in range(20)] != [Sampler(Sampling(1.0, seed=7)).choose(logits)] * 20
    unseeded = [[Sampler(Sampling(temperature=1.0)).choose(logits) for _ in range(20)] for _ in range(2)]
    assert unseeded[0] != unseeded[1]
    assert Sampler(Sampling(seed=7)).choose(logits) == int(logits.argmax())


def test_scores_are_log_probabilities_with_the_likeliest_first() -> None:
    logits = torch.stack([some_logits(30, 1), some_logits(30, 2)])
    found = score(logits, torch.tensor([4, 5]), 3)
    logs = torch.log_softmax(logits, -1)
    for place, (one, token) in enumerate(zip(found, (4, 5), strict=True)):
        assert one.logprob == pytest.approx(float(logs[place, token]))
        assert [i for i, _ in one.top] == logs[place].topk(3).indices.tolist()
    assert score(logits, torch.tensor([4, 5]), 0)[0].top == ()
