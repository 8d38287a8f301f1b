from __future__ import annotations

import contextlib
import json
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flock_ray.errors import ConfigError
from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.protocol.parameters import filled
from flock_ray.wire_format.registry import WIRE_FORMATS, get_wire_format, wire_format_of
from flock_ray.wire_format.wire_format import MalformedPayload, WireFormat
from tests.protocol.players import TERMS

SHAPES = {"x.lora_A.weight": (2, 5), "x.lora_B.weight": (3, 2), "y.lora_A.weight": (2, 4)}
MAX_ABS = 64.0
A, B, C = SHAPES
DTYPES = {"dense": torch.float32, "bf16_feedback": torch.bfloat16}


def update(seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


class Case:
    """A wire format with a good payload, to change it."""

    def __init__(self, name: str) -> None:
        made = get_wire_format(name)
        self.name, self.dtype = name, DTYPES[name]
        self.format: WireFormat = made(filled(made.parameters, {}, "wire_format.parameters"))
        assert self.format.max_abs == MAX_ABS
        self.good = self.format.encode(update())
        self.header_end = 8 + int.from_bytes(self.good[:8], "little")

    def decode(self, data: bytes) -> Adapter:
        return self.format.decode(data, SHAPES)

    def refused(self, data: bytes) -> str:
        with pytest.raises(MalformedPayload) as caught:
            self.decode(data)
        assert 0 < len(str(caught.value)) < 200 and "\n" not in str(caught.value)
        return str(caught.value)

    def with_header(self, edit: Callable[[dict[str, Any]], None], pad: bool = True) -> bytes:
        """The good payload under an edited header, padded to the good header's length where it fits."""
        header = json.loads(self.good[8 : self.header_end])
        edit(header)
        text = json.dumps(header, separators=(",", ":")).encode()
        return self.with_raw_header(text.ljust(self.header_end - 8) if pad else text)

    def with_raw_header(self, text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + self.good[self.header_end :]


CASES = {name: Case(name) for name in WIRE_FORMATS}
every_format = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_format
@given(st.integers(0, 2**32))
def test_decoding_gives_back_what_was_encoded(case: Case, seed: int) -> None:
    data = case.format.encode(update(seed))
    decoded = case.decode(data)
    assert {key: tuple(factor.shape) for key, factor in decoded.items()} == dict(sorted(SHAPES.items()))
    assert list(decoded) == sorted(SHAPES)
    assert all(factor.dtype == torch.float32 and factor.is_contiguous() for factor in decoded.values())
    assert all(torch.equal(decoded[key], value.to(case.dtype).float()) for key, value in update(seed).items())
    assert case.format.encode(decoded) == data
    assert len(data) == case.format.max_bytes(SHAPES)


def test_dense_payloads_are_the_canonical_bytes() -> None:
    assert CASES["dense"].good == canonical_bytes(update())


@every_format
def test_order_and_memory_layout_of_an_update_change_no_byte(case: Case) -> None:
    scattered = {key: update()[key].T.contiguous().T for key in reversed(SHAPES)}
    assert case.format.encode(scattered) == case.good


@every_format
def test_decoded_factors_can_be_changed_apart(case: Case) -> None:
    decoded, again = case.decode(case.good), case.decode(case.good)
    decoded[A].fill_(9)
    assert torch.equal(decoded[B], again[B]) and again[A].max() < 9
    assert case.decode(case.good)[A].max() < 9


@every_format
def test_values_at_the_bound_and_minus_zero_pass(case: Case) -> None:
    edge = update()
    edge[A][0, :3] = torch.tensor([MAX_ABS, -MAX_ABS, -0.0])
    data = case.format.encode(edge)
    assert case.format.encode(case.decode(data)) == data


@every_format
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf, 64.00001, 64.5, -1e30, 3e38])
@pytest.mark.parametrize("key", SHAPES)
def test_a_single_bad_value_is_refused(case: Case, key: str, value: float) -> None:
    poisoned = update()
    poisoned[key].view(-1)[-1] = value
    data = case.format.encode(poisoned)
    if value == 64.00001 and case.name == "bf16_feedback":  # as sent it is 64
        assert case.decode(data)[key].view(-1)[-1] == 64
    else:
        assert key in case.refused(data)


def edit_dtype(header: dict[str, Any]) -> None:
    header[A]["dtype"] = "I32"


def edit_shape(header: dict[str, Any]) -> None:
    header[A]["shape"] = [5, 2]


def edit_overlap(header: dict[str, Any]) -> None:
    header[C]["data_offsets"] = header[A]["data_offsets"]


def edit_beyond(header: dict[str, Any]) -> None:
    header[A]["data_offsets"] = [0, 2**40]


def edit_negative(header: dict[str, Any]) -> None:
    header[A]["data_offsets"] = [-4, 36]


def edit_swap(header: dict[str, Any]) -> None:
    header[A], header[B] = header[B], header[A]


def edit_metadata(header: dict[str, Any]) -> None:
    header["__metadata__"] = {"format": "pt"}


def edit_extra(header: dict[str, Any]) -> None:
    header["z"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def edit_missing(header: dict[str, Any]) -> None:
    del header[C]


def edit_order(header: dict[str, Any]) -> None:
    header[A] = header.pop(A)


@every_format
@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize(
    "edit",
    [
        edit_dtype,
        edit_shape,
        edit_overlap,
        edit_beyond,
        edit_negative,
        edit_swap,
        edit_metadata,
        edit_extra,
        edit_missing,
        edit_order,
    ],
)
def test_any_other_header_is_refused(case: Case, edit: Callable[[dict[str, Any]], None], pad: bool) -> None:
    case.refused(case.with_header(edit, pad))


@every_format
def test_the_same_header_written_another_way_is_refused(case: Case) -> None:
    header = case.good[8 : case.header_end].rstrip()
    twice = header[:-1] + b"," + header[1:]
    assert len(json.loads(twice)) == len(SHAPES)
    case.refused(case.with_raw_header(twice))
    case.refused(case.with_raw_header(json.dumps(json.loads(header)).encode()))
    case.refused(case.with_raw_header(b" " + header))


def honest(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {key: value.to(dtype) for key, value in update().items()}


OTHERS: dict[str, Callable[[torch.dtype], dict[str, torch.Tensor]]] = {
    "float16": lambda dtype: honest(torch.float16),
    "float64": lambda dtype: honest(torch.float64),
    "int32": lambda dtype: honest(torch.int32),
    "the other format's": lambda dtype: honest(torch.bfloat16 if dtype == torch.float32 else torch.float32),
    "flattened": lambda dtype: honest(dtype) | {A: honest(dtype)[A].flatten()},
    "wider": lambda dtype: honest(dtype) | {A: torch.zeros(2, 6, dtype=dtype)},
    "a factor more": lambda dtype: honest(dtype) | {"z": torch.zeros(1, dtype=dtype)},
    "one factor": lambda dtype: {A: honest(dtype)[A]},
    "nothing": lambda dtype: {},
}


@every_format
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_well_formed_files_of_other_tensors_are_refused(
    case: Case, other: Callable[[torch.dtype], dict[str, torch.Tensor]]
) -> None:
    assert safetensors.torch.save(honest(case.dtype)) == case.good
    case.refused(safetensors.torch.save(other(case.dtype)))


@every_format
def test_metadata_is_refused(case: Case) -> None:
    case.refused(safetensors.torch.save(honest(case.dtype), {"format": "pt"}))


@every_format
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32, torch.bfloat16])
def test_only_float32_is_encoded(case: Case, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"torch\.float32 only"):
        case.format.encode(honest(dtype))


@every_format
@pytest.mark.parametrize("length", [0, 1, 2**20, 2**32, 2**63 - 1, 2**64 - 1])
def test_a_lying_header_length_is_refused(case: Case, length: int) -> None:
    case.refused(length.to_bytes(8, "little") + case.good[8:])


@every_format
@given(st.data())
def test_truncated_payloads_are_refused(case: Case, data: st.DataObject) -> None:
    case.refused(case.good[: data.draw(st.integers(0, len(case.good) - 1))])


@every_format
@given(st.binary(min_size=1, max_size=64))
def test_trailing_bytes_are_refused(case: Case, tail: bytes) -> None:
    case.refused(case.good + tail)


@every_format
@given(st.data(), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_another_canonical_update(case: Case, draw: st.DataObject, flip: int) -> None:
    position = draw.draw(st.integers(0, len(case.good) - 1))
    data = bytearray(case.good)
    data[position] ^= flip
    if position < case.header_end:
        case.refused(bytes(data))
        return
    with contextlib.suppress(MalformedPayload):
        assert case.format.encode(case.decode(bytes(data))) == data


@every_format
@given(st.data())
@settings(max_examples=300)
def test_no_bytes_raise_anything_else(case: Case, draw: st.DataObject) -> None:
    size, header = len(case.good), case.good[: case.header_end]
    data = draw.draw(
        st.one_of(
            st.binary(max_size=400),
            st.binary(min_size=size, max_size=size),
            st.binary(min_size=size - len(header), max_size=size - len(header)).map(header.__add__),
            st.binary(max_size=400).map(case.with_raw_header),
        )
    )
    try:
        decoded = case.decode(data)
    except MalformedPayload:
        return
    assert case.format.encode(decoded) == data
    assert all(bool((factor.abs() <= MAX_ABS).all()) for factor in decoded.values())


@every_format
def test_refusing_a_large_payload_allocates_next_to_nothing(case: Case) -> None:
    data = bytes(8 << 20)
    case.format.max_bytes(SHAPES)
    tracemalloc.start()
    try:
        case.refused(data)
        case.refused((1 << 62).to_bytes(8, "little") + data)
        assert tracemalloc.get_traced_memory()[1] < 9 << 20  # the second argument itself
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", sorted(WIRE_FORMATS))
@given(st.integers(1, 2**18), st.floats(0, 1), st.booleans())
@example(383, 1.0, False)  # rounded to bfloat16 it is more
def test_every_entry_up_to_the_bound_is_valid(name: str, max_abs: int, share: float, negative: bool) -> None:
    made = get_wire_format(name)({"max_abs": max_abs})
    value = min(float(max_abs), float(torch.tensor(max_abs * share))) * (-1 if negative else 1)
    made.decode(made.encode({key: torch.full(shape, value) for key, shape in SHAPES.items()}), SHAPES)


@pytest.mark.parametrize("name", sorted(WIRE_FORMATS))
def test_the_bound_is_that_of_the_terms(name: str) -> None:
    task = replace(TERMS, wire_format=name, wire_format_parameters={"max_abs": 2})
    wire_format = wire_format_of(task)
    legal, beyond = ({key: torch.full(shape, value) for key, shape in SHAPES.items()} for value in (2.0, 2.25))
    wire_format.decode(wire_format.encode(legal), SHAPES)
    with pytest.raises(MalformedPayload, match="above 2 in magnitude"):
        wire_format.decode(wire_format.encode(beyond), SHAPES)


def test_an_unknown_wire_format_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"'zip'.*bf16_feedback, dense"):
        get_wire_format("zip")
