from __future__ import annotations

import contextlib
import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.codec.codec import MalformedPayload
from flock_ray.codec.registry import CODECS, get_codec
from flock_ray.errors import ConfigError
from flock_ray.lora.serialization import Adapter, canonical_bytes

SHAPES = {"x.lora_A.weight": (2, 5), "x.lora_B.weight": (3, 2), "y.lora_A.weight": (2, 4)}
MAX_ABS = 64.0
A, B, C = SHAPES
dense = get_codec("dense")


def update(seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


GOOD = dense.encode(update())
HEADER_END = 8 + int.from_bytes(GOOD[:8], "little")


def refused(data: bytes) -> str:
    with pytest.raises(MalformedPayload) as caught:
        dense.decode(data, SHAPES, MAX_ABS)
    assert 0 < len(str(caught.value)) < 200 and "\n" not in str(caught.value)
    return str(caught.value)


def with_header(edit: Callable[[dict[str, Any]], None], pad: bool = True) -> bytes:
    """The good payload under an edited header, padded to the good header's length where it fits."""
    header = json.loads(GOOD[8:HEADER_END])
    edit(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    return with_raw_header(text.ljust(HEADER_END - 8) if pad else text)


def with_raw_header(text: bytes, body: bytes = GOOD[HEADER_END:]) -> bytes:
    return len(text).to_bytes(8, "little") + text + body


@given(st.integers(0, 2**32))
def test_decoding_gives_back_what_was_encoded(seed: int) -> None:
    data = dense.encode(update(seed))
    decoded = dense.decode(data, SHAPES, MAX_ABS)
    assert list(decoded) == sorted(SHAPES)
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in decoded.values())
    assert canonical_bytes(decoded) == data == dense.encode(decoded)
    assert len(data) == dense.max_bytes(SHAPES)


def test_decoded_tensors_can_be_changed_apart() -> None:
    decoded = dense.decode(GOOD, SHAPES, MAX_ABS)
    decoded[A].fill_(9)
    assert torch.equal(decoded[B], update()[B])
    assert dense.decode(GOOD, SHAPES, MAX_ABS)[A].max() < 9


def test_values_at_the_bound_and_minus_zero_pass() -> None:
    edge = update()
    edge[A][0, :3] = torch.tensor([MAX_ABS, -MAX_ABS, -0.0])
    data = dense.encode(edge)
    assert dense.encode(dense.decode(data, SHAPES, MAX_ABS)) == data


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf, 64.00001, -1e30])
@pytest.mark.parametrize("key", SHAPES)
def test_a_single_bad_value_is_refused(key: str, value: float) -> None:
    poisoned = update()
    poisoned[key].view(-1)[-1] = value
    assert key in refused(dense.encode(poisoned))


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
def test_any_other_header_is_refused(edit: Callable[[dict[str, Any]], None], pad: bool) -> None:
    refused(with_header(edit, pad))


def test_the_same_header_written_another_way_is_refused() -> None:
    header = GOOD[8:HEADER_END].rstrip()
    twice = header[:-1] + b"," + header[1:]
    assert len(json.loads(twice)) == len(SHAPES)
    refused(with_raw_header(twice))
    refused(with_raw_header(json.dumps(json.loads(header)).encode()))
    refused(with_raw_header(b" " + header))


def honest(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {key: value.to(dtype) for key, value in update().items()}


@pytest.mark.parametrize(
    "tensors",
    [
        honest(torch.float16),
        honest(torch.float64),
        honest(torch.int32),
        update() | {A: update()[A].flatten()},
        update() | {A: torch.zeros(2, 6)},
        update() | {"z": torch.zeros(1)},
        {A: update()[A]},
        {},
    ],
)
def test_well_formed_files_of_other_tensors_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    refused(safetensors.torch.save(tensors))


def test_metadata_is_refused() -> None:
    refused(safetensors.torch.save(update(), {"format": "pt"}))


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**32, 2**63 - 1, 2**64 - 1])
def test_a_lying_header_length_is_refused(length: int) -> None:
    refused(length.to_bytes(8, "little") + GOOD[8:])


@pytest.mark.parametrize("size", [*range(12), HEADER_END - 1, HEADER_END, HEADER_END + 1, len(GOOD) - 1])
def test_truncated_payloads_are_refused(size: int) -> None:
    refused(GOOD[:size])


@given(st.binary(min_size=1, max_size=64))
def test_trailing_bytes_are_refused(tail: bytes) -> None:
    refused(GOOD + tail)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_another_canonical_update(position: int, flip: int) -> None:
    data = bytearray(GOOD)
    data[position] ^= flip
    if position < HEADER_END:
        refused(bytes(data))
        return
    with contextlib.suppress(MalformedPayload):
        assert dense.encode(dense.decode(bytes(data), SHAPES, MAX_ABS)) == data


@given(
    st.one_of(
        st.binary(max_size=400),
        st.binary(min_size=len(GOOD), max_size=len(GOOD)),
        st.binary(min_size=len(GOOD) - HEADER_END, max_size=len(GOOD) - HEADER_END).map(GOOD[:HEADER_END].__add__),
        st.binary(max_size=400).map(lambda text: with_raw_header(text)),
    )
)
@settings(max_examples=300)
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        decoded = dense.decode(data, SHAPES, MAX_ABS)
    except MalformedPayload:
        return
    assert dense.encode(decoded) == data
    assert all(bool((tensor.abs() <= MAX_ABS).all()) for tensor in decoded.values())


def test_refusing_a_large_payload_allocates_next_to_nothing() -> None:
    data = bytes(8 << 20)
    dense.max_bytes(SHAPES)
    tracemalloc.start()
    try:
        refused(data)
        refused((1 << 62).to_bytes(8, "little") + data)
        assert tracemalloc.get_traced_memory()[1] < 9 << 20  # the second argument itself
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_codec_gives_back_a_legal_update(name: str) -> None:
    codec = get_codec(name)
    data = codec.encode(update())
    decoded = codec.decode(data, SHAPES, MAX_ABS)
    assert {key: tuple(tensor.shape) for key, tensor in decoded.items()} == SHAPES
    assert codec.encode(decoded) == data
    assert len(data) <= codec.max_bytes(SHAPES)


def test_unknown_codec_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'zip'.*dense"):
        get_codec("zip")
