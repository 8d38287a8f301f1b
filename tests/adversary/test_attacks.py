from __future__ import annotations

import pytest
import torch

from flock_ray.adversary.registry import ATTACKS, get_attack
from flock_ray.errors import ConfigError
from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.wire_format.dense import Dense
from flock_ray.wire_format.wire_format import MalformedPayload

SHAPES = {"x.lora_A.weight": (2, 5), "x.lora_B.weight": (3, 2)}
dense = Dense({"max_abs": 64})


def update() -> Adapter:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


def delivered(name: str) -> Adapter:
    """What a checking receiver reads from the attacker's payload."""
    return dense.decode(get_attack(name, 3.0).payload(update(), dense.encode), SHAPES)


def test_none_is_honest() -> None:
    assert canonical_bytes(delivered("none")) == canonical_bytes(update())
    assert get_attack("none", 3.0).vote(-7) == -7


@pytest.mark.parametrize(("scale", "score", "vote"), [(3.0, 1000, -3000), (3.0, -5, 15), (0.5, 5, -2), (2.0, 0, 0)])
def test_sign_flip_reverses_and_scales_votes(scale: float, score: int, vote: int) -> None:
    flipped = get_attack("sign_flip", scale).vote(score)
    assert flipped == vote and isinstance(flipped, int)


def test_sign_flip_reverses_and_scales_updates_in_a_legal_payload() -> None:
    honest, sent = update(), delivered("sign_flip")
    a, b = SHAPES
    assert torch.equal(sent[b], -3.0 * honest[b]) and torch.equal(sent[a], honest[a])
    start = torch.randn(SHAPES[a], generator=torch.Generator().manual_seed(1))  # B starts at 0
    assert torch.allclose(sent[b] @ (start + sent[a]), -3.0 * honest[b] @ (start + honest[a]))


@pytest.mark.parametrize("name", ["nan", "wrong_shape", "wrong_dtype"])
def test_malformed_updates_are_refused(name: str) -> None:
    with pytest.raises(MalformedPayload):
        delivered(name)


def test_nan_is_a_single_entry() -> None:
    poisoned = get_attack("nan", 1.0).poison(update())
    assert sum(int(tensor.isnan().sum()) for tensor in poisoned.values()) == 1


def test_wrong_dtype_is_as_long_as_an_honest_payload() -> None:
    assert len(get_attack("wrong_dtype", 1.0).payload(update(), dense.encode)) == dense.max_bytes(SHAPES)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_no_attack_changes_the_honest_update_in_place(name: str) -> None:
    given = update()
    get_attack(name, 3.0).payload(given, dense.encode)
    assert canonical_bytes(given) == canonical_bytes(update())


def test_unknown_attack_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'bribe'.*none.*sign_flip"):
        get_attack("bribe", 1.0)
