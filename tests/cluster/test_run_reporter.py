from __future__ import annotations

import pytest

from flock_ray.cluster.run_reporter import _rate

pytestmark = pytest.mark.model


def noted(tokens: int, flops: float, seconds: float, rate: float) -> dict[str, float]:
    return {"tokens": tokens, "flops": flops, "seconds": seconds, "flops_per_second": rate}


def test_nobody_trained() -> None:
    assert _rate([]) is None


def test_rate_of_one_node() -> None:
    rate = _rate([noted(1_000, 3e9, 2.0, 5e9)])
    assert rate is not None
    assert (rate.tokens_per_second, rate.mfu) == pytest.approx((500.0, 0.3))


def test_a_fast_node_that_trained_less_weighs_less() -> None:
    """Tokens over the slowest node's time; operations over what each could have done in its own."""
    rate = _rate([noted(1_000, 3e9, 2.0, 5e9), noted(100, 1e9, 0.5, 10e9)])
    assert rate is not None
    assert rate.tokens_per_second == pytest.approx(1_100 / 2.0)
    assert rate.mfu == pytest.approx(4e9 / (2.0 * 5e9 + 0.5 * 10e9))
