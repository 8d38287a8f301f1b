from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from flock_ray.lora.stacked import StackedAdapters
from flock_ray.training import cross_entropy
from flock_ray.training.cross_entropy import linear_cross_entropy
from flock_ray.training.loss import PackedLoss
from flock_ray.training.model import BaseModel, load_base
from flock_ray.training.packing import pack
from tests.training.samples import LORA, random_examples, starting_adapter, tiny_spec

pytestmark = pytest.mark.model

TOKENS, WIDTH, VOCABULARY = 21, 16, 97


def drawn(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype)
    return hidden, weight, torch.randint(VOCABULARY, (TOKENS,), generator=generator)


@pytest.mark.parametrize("chunk_tokens", [1, 8, 21, 1000])
@pytest.mark.parametrize("cached", [1, 3 * VOCABULARY, 2**19])
def test_equals_cross_entropy_of_all_logits(chunk_tokens: int, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_CACHED", cached)
    hidden, weight, targets = drawn()
    shares = torch.arange(TOKENS) / TOKENS
    ours = linear_cross_entropy(hidden, weight, targets, chunk_tokens)
    whole = functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    assert torch.allclose(ours, whole, rtol=1e-5)
    [mine] = torch.autograd.grad((ours * shares).sum(), hidden)
    [other] = torch.autograd.grad((whole * shares).sum(), hidden)
    assert torch.allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_gradient_agrees_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    targets = torch.tensor([6, 0, 3])
    loss = linear_cross_entropy(hidden, weight, targets, 2).sum()
    [gradient] = torch.autograd.grad(loss, hidden)
    for index in range(3):
        moved = hidden.detach().clone()
        moved[index, 1] += 1e-2
        back = hidden.detach().clone()
        back[index, 1] -= 1e-2
        nll = [float(functional.cross_entropy(h @ weight.T, targets, reduction="sum")) for h in (moved, back)]
        assert float(gradient[index, 1]) == pytest.approx((nll[0] - nll[1]) / 2e-2, abs=1e-3)


def test_bfloat16_stays_near_float32() -> None:
    hidden, weight, targets = drawn(torch.bfloat16)
    exact = functional.cross_entropy(hidden.float() @ weight.float().T, targets, reduction="none")
    ours = linear_cross_entropy(hidden, weight, targets, 8)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, exact, rtol=0.02, atol=0.05)
    [mine] = torch.autograd.grad(ours.sum(), hidden)
    assert mine.dtype == torch.bfloat16


def test_no_chunk_holds_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    whole = torch.log_softmax

    def noted(logits: torch.Tensor, **options: object) -> torch.Tensor:
        sizes.append(len(logits))
        return whole(logits, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "log_softmax", noted)
    linear_cross_entropy(*drawn(), chunk_tokens=8).sum().backward()
    assert sizes == [8, 8, 5]


def test_chunks_change_no_loss_of_a_model(base: BaseModel, tiny_model_dir: Path) -> None:
    packed = pack(random_examples(4), torch.device("cpu"))
    results = []
    for chunk_tokens in (None, 7):
        fresh = load_base(tiny_spec(tiny_model_dir)).model
        stack = StackedAdapters(fresh, LORA)
        stack.load([starting_adapter(base)])
        loss = PackedLoss(fresh, chunk_tokens)(packed)
        loss.sum().backward()
        stack.collect_gradients()
        results.append((loss.detach(), stack.gradient))
    (whole, gradient), (chunked, other) = results
    assert torch.allclose(whole, chunked, rtol=1e-5)
    assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-5) and gradient.abs().max() > 1e-3
