from __future__ import annotations

import hashlib
import json

import pytest
import safetensors.torch
import torch

from flock_ray.lora.serialization import adapter_hash, canonical_bytes


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
