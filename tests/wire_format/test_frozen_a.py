"""Updates of FFA-LoRA: B travels, and one that moves A is malformed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flock_ray.lora.serialization import LORA_A, Adapter, canonical_bytes
from flock_ray.wire_format.feedback import encode_with_feedback
from flock_ray.wire_format.frozen_a import FREEZE_A
from flock_ray.wire_format.registry import WIRE_FORMATS, wire_format_of
from flock_ray.wire_format.wire_format import MalformedPayload, WireFormat
from tests.protocol.players import TERMS

SHAPES = {"x.lora_A.weight": (2, 5), "x.lora_B.weight": (3, 2), "y.lora_A.weight": (2, 4), "y.lora_B.weight": (6, 2)}


def of(name: str, freeze_a: int) -> WireFormat:
    parameters = {"max_abs": 64} | ({FREEZE_A: 1} if freeze_a else {})
    return wire_format_of(replace(TERMS, wire_format=name, wire_format_parameters=parameters))


def update(a: float = 0.0) -> Adapter:
    """Entries that bfloat16 holds; those of A are all `a`."""
    return {
        key: torch.full(shape, a) if key.endswith(LORA_A) else torch.arange(1.0, 1 + shape[0] * 2).view(shape)
        for key, shape in SHAPES.items()
    }


@pytest.mark.parametrize("name", sorted(WIRE_FORMATS))
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_b_travels_alone_and_a_comes_back_unmoved(name: str, zero: float) -> None:
    frozen = of(name, 1)
    data = frozen.encode(update(zero))
    assert len(data) == frozen.max_bytes(SHAPES) < of(name, 0).max_bytes(SHAPES) and b"lora_A" not in data
    decoded = frozen.decode(data, SHAPES)
    assert list(decoded) == sorted(SHAPES) and canonical_bytes(decoded) == canonical_bytes(update())
    assert frozen.encode(decoded) == data


@pytest.mark.parametrize("name", sorted(WIRE_FORMATS))
@pytest.mark.parametrize("a", [2.0**-20, float("nan")])
def test_an_update_that_moves_a_is_malformed(name: str, a: float) -> None:
    frozen = of(name, 1)
    with pytest.raises(MalformedPayload, match="bytes"):
        frozen.decode(frozen.encode(update(a)), SHAPES)
    with pytest.raises(MalformedPayload, match="bytes"):
        frozen.decode(of(name, 0).encode(update()), SHAPES)  # nor may it say that it does not
    with pytest.raises(MalformedPayload):
        of(name, 0).decode(frozen.encode(update()), SHAPES)


def test_a_header_that_names_a_in_the_place_of_b_is_malformed() -> None:
    frozen = of("dense", 1)
    data = frozen.encode(update())
    with pytest.raises(MalformedPayload, match="header"):
        frozen.decode(data.replace(b"x.lora_B", b"x.lora_A"), SHAPES)


def test_what_encoding_loses_is_made_up_for_in_b_only() -> None:
    frozen = of("bf16_feedback", 1)
    assert frozen.feedback and not of("dense", 1).feedback
    given = update() | {"x.lora_B.weight": torch.full((3, 2), 1 / 3)}
    _, residual = encode_with_feedback(frozen, SHAPES, given, None)
    assert residual is not None and residual["x.lora_B.weight"].abs().max() > 0
    assert not any(bool(factor.any()) for key, factor in residual.items() if key.endswith(LORA_A))
    _, again = encode_with_feedback(frozen, SHAPES, given, residual)
    assert again is not None
