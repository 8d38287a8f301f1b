from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.lora.foreign import with_rank
from flock_ray.lora.gate import inspect
from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.protocol.contest_message import Finding
from tests.lora.test_foreign import SHAPES


def adapter(rank: int) -> Adapter:
    generator = torch.Generator().manual_seed(rank)
    return {key: torch.randn(shape, generator=generator) for key, shape in with_rank(SHAPES, rank).items()}


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_an_adapter_of_any_rank_up_to_the_limit_passes_bit_by_bit(rank: int) -> None:
    data = canonical_bytes(adapter(rank))
    finding, read = inspect(data, SHAPES, 8)
    assert finding is Finding.VALID and read is not None and canonical_bytes(read) == data


def test_each_fault_has_its_finding() -> None:
    good = adapter(2)
    key = min(good)
    faults: list[tuple[bytes, Finding]] = [
        (canonical_bytes(adapter(9)), Finding.TOO_LARGE),
        (canonical_bytes(adapter(2)) + bytes(1 << 20), Finding.TOO_LARGE),
        (b"", Finding.MALFORMED),
        (b"\x80\x04pickle", Finding.MALFORMED),
        (canonical_bytes(good)[:-1], Finding.MALFORMED),
        (canonical_bytes(good) + b"\0", Finding.MALFORMED),
        ((100).to_bytes(8, "little") + b"[" * 100, Finding.MALFORMED),
        ((2).to_bytes(8, "little") + b"[]", Finding.MALFORMED),
        (canonical_bytes({k: v for k, v in good.items() if k != key}), Finding.WRONG_KEYS),
        (canonical_bytes(good | {"another": torch.zeros(2, 2)}), Finding.WRONG_KEYS),
        (canonical_bytes(good | {key: torch.zeros(2, 99)}), Finding.WRONG_SHAPES),
        (canonical_bytes(good | {key: good[key] * torch.nan}), Finding.NOT_FINITE),
        (canonical_bytes(good | {key: good[key] * torch.inf}), Finding.NOT_FINITE),
    ]
    for data, finding in faults:
        assert inspect(data, SHAPES, 8) == (finding, None)


@given(st.data())
def test_damaged_bytes_never_pass_as_another_adapter_and_raise_nothing(data: st.DataObject) -> None:
    good = canonical_bytes(adapter(1))
    place, value = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 255))
    damaged = good[:place] + bytes([value]) + good[place + 1 :]
    finding, read = inspect(damaged, SHAPES, 8)
    assert (finding is Finding.VALID) == (read is not None)
    assert read is None or canonical_bytes(read) == damaged
    inspect(data.draw(st.binary(max_size=64)), SHAPES, 8)
