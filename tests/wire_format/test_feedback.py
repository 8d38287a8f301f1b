from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.wire_format.bf16_feedback import Bf16Feedback
from flock_ray.wire_format.dense import Dense
from flock_ray.wire_format.feedback import encode_with_feedback
from flock_ray.wire_format.wire_format import MalformedPayload

KEY = "x.lora_A.weight"
SHAPES = {KEY: (1, 3)}
bf16 = Bf16Feedback({"max_abs": 64})
values = st.floats(-60, 60, width=32)
rows = st.lists(values, min_size=3, max_size=3)


def adapter(row: list[float]) -> Adapter:
    return {KEY: torch.tensor([row])}


def upper_half(value: float) -> float:
    """Round a float32 to nearest, ties to even, at its upper 16 bits: by integers alone."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    low, high = bits & 0xFFFF, bits >> 16
    high += low > 0x8000 or (low == 0x8000 and high & 1)
    return float(struct.unpack("<f", struct.pack("<I", high << 16))[0])


@given(rows)
def test_entries_are_rounded_to_nearest_even(row: list[float]) -> None:
    sent = bf16.decode(bf16.encode(adapter(row)), SHAPES)
    assert sent[KEY][0].tolist() == [upper_half(value) for value in row]


@pytest.mark.parametrize(("value", "rounded"), [(1 + 2**-8, 1.0), (1 + 3 * 2**-8, 1 + 2**-6), (-1 - 2**-8, -1.0)])
def test_a_tie_goes_to_the_even_one(value: float, rounded: float) -> None:
    assert bf16.decode(bf16.encode(adapter([value] * 3)), SHAPES)[KEY].tolist() == [[rounded] * 3]


@given(rows, st.none() | st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
def test_what_is_sent_and_what_is_carried_on_are_the_update_and_what_was_carried(
    row: list[float], carried: list[float] | None
) -> None:
    before = canonical_bytes(adapter(row))
    update = adapter(row)
    payload, residual = encode_with_feedback(bf16, SHAPES, update, adapter(carried) if carried else None)
    assert residual is not None
    wanted = update[KEY] + torch.tensor([carried]) if carried else update[KEY]
    assert torch.equal(bf16.decode(payload, SHAPES)[KEY] + residual[KEY], wanted)
    assert canonical_bytes(update) == before


def test_small_updates_arrive_in_the_end() -> None:
    """Each is below half a step of bfloat16 beside a large entry, so without feedback none ever arrives."""
    step = 2.0**-9 * 1.5
    carried, sent = None, torch.zeros(1, 3)
    for epoch in range(64):
        update = adapter([1.0 + step, -1.0 - step, step]) if epoch % 2 else adapter([step, -step, step])
        payload, carried = encode_with_feedback(bf16, SHAPES, update, carried)
        sent += bf16.decode(payload, SHAPES)[KEY]
    exact = torch.tensor([[32 + 64 * step, -32 - 64 * step, 64 * step]])
    assert carried is not None and torch.allclose(sent + carried[KEY], exact, atol=1e-5)
    assert (sent - exact).abs().max() < 2.0**-7


def test_without_feedback_they_would_not() -> None:
    update = adapter([1.0 + 2.0**-9, 0.0, 0.0])
    assert bf16.decode(bf16.encode(update), SHAPES)[KEY][0, 0] == 1


def test_what_lies_beyond_the_bound_is_carried_on() -> None:
    payload, residual = encode_with_feedback(bf16, SHAPES, adapter([63.0, -63.0, 0.0]), adapter([5.0, -5.0, 0.0]))
    assert bf16.decode(payload, SHAPES)[KEY].tolist() == [[64, -64, 0]]
    assert residual is not None and residual[KEY].tolist() == [[4, -4, 0]]


def test_a_payload_that_nobody_accepts_leaves_no_residual() -> None:
    for update in (adapter([float("nan"), 0.0, 0.0]), {KEY: torch.zeros(3)}):
        payload, residual = encode_with_feedback(bf16, SHAPES, update, adapter([1.0, 1.0, 1.0]))
        assert residual is None
        with pytest.raises(MalformedPayload):
            bf16.decode(payload, SHAPES)


def test_half_the_bytes() -> None:
    shapes = {KEY: (64, 64)}
    dense = Dense({"max_abs": 64})
    assert not dense.feedback and bf16.feedback
    assert abs(2 * bf16.max_bytes(shapes) - dense.max_bytes(shapes)) < 200
