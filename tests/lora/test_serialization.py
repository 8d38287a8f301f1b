from __future__ import annotations

import hashlib
import json
import tracemalloc

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.errors import ModelError
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.serialization import (
    LORA_A,
    LORA_B,
    MAX_ADAPTER_BYTES,
    adapter_hash,
    canonical_bytes,
    layout,
    require_storable,
)


def test_bytes_are_the_sorted_float32_file_without_metadata() -> None:
    adapter = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(1, 2)}
    data = canonical_bytes(adapter)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header) == ["a", "b"]
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    assert all(torch.equal(tensor, adapter[key]) for key, tensor in safetensors.torch.load(data).items())
    assert adapter_hash(adapter) == hashlib.sha256(data).digest()


def test_order_and_memory_layout_change_nothing() -> None:
    square = torch.randn(4, 4)
    straight = {"a": square, "b": square[:2]}
    strided = {"b": torch.cat([square, square])[4:6], "a": square.T.contiguous().T}
    assert canonical_bytes(straight) == canonical_bytes(strided)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="float32"):
        canonical_bytes({"a": torch.zeros(2, dtype=dtype)})


@given(
    st.dictionaries(st.text(max_size=8).filter("__metadata__".__ne__), st.lists(st.integers(0, 5), max_size=3)),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_layout_is_that_of_the_library(shapes: dict[str, list[int]], dtype: torch.dtype) -> None:
    made = layout({key: tuple(shape) for key, shape in shapes.items()}, dtype)
    saved = safetensors.torch.save({key: torch.zeros(shape, dtype=dtype) for key, shape in shapes.items()})
    assert (made.header, made.size) == (saved[: len(made.header)], len(saved))
    assert not any(saved[len(made.header) :])


def shapes_of(rank: int, width: int = 1 << 14) -> dict[str, tuple[int, ...]]:
    return {f"layer{LORA_A}": (rank, width), f"layer{LORA_B}": (width, rank)}


def test_a_size_is_known_without_an_adapter_and_one_that_is_too_large_is_not_made() -> None:
    most = 1 << 17  # 2^17 * 2 * 2^14 entries of 4 bytes, and the header: a little more than 2^34
    tracemalloc.start()
    try:
        require_storable(shapes_of(most - 1))
        assert layout(shapes_of(most)).size > MAX_ADAPTER_BYTES
        for make in (require_storable, lambda shapes: initial_adapter(shapes, 0)):
            with pytest.raises(
                ModelError, match=rf"lora\.rank is {4 * most}: .* 68\.7 GB; it must be at most {most - 1},"
            ):
                make(shapes_of(4 * most))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
