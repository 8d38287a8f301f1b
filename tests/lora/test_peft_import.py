from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from flock_ray.errors import ModelError
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.peft_import import adapter_folder, read_peft, require_start
from flock_ray.lora.peft_io import LoraSpec, save_peft
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter, canonical_bytes

pytestmark = pytest.mark.model

LAYERS = ("base_model.model.a.q_proj", "base_model.model.b.q_proj")


def random_adapter(rank: int, seed: int = 1) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name + end: shape for name in LAYERS for end, shape in ((LORA_A, (rank, 6)), (LORA_B, (4, rank)))}
    return {k: dequantize(quantize(torch.randn(s, generator=generator))) for k, s in sorted(shapes.items())}


def saved(folder: Path, adapter: Adapter, rank: int, alpha: int, **more: Any) -> Path:
    save_peft(folder, canonical_bytes(adapter), LoraSpec(rank, alpha, ()), ["q_proj"], "some/base")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


def products(adapter: Adapter, scaling: float) -> list[torch.Tensor]:
    return [scaling * (adapter[name + LORA_B].double() @ adapter[name + LORA_A].double()) for name in LAYERS]


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(ModelError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_run_saved_comes_back_bit_by_bit(tmp_path: Path) -> None:
    adapter = random_adapter(4)
    read = read_peft(saved(tmp_path, adapter, 4, 8), LoraSpec(4, 8, ()), seed=5)
    assert canonical_bytes(read) == canonical_bytes(adapter)


@pytest.mark.parametrize(
    ("rank", "alpha", "more", "scaling"),
    [
        (4, 8, {}, 2.0),
        (4, 16, {}, 4.0),
        (2, 32, {}, 16.0),
        (1, 3, {}, 3.0),
        (4, 8, {"use_rslora": True}, 8 / math.sqrt(4)),
    ],
)
def test_scaling_and_rank_change_and_the_products_stay(
    tmp_path: Path, rank: int, alpha: int, more: dict[str, Any], scaling: float
) -> None:
    adapter = random_adapter(rank)
    read = read_peft(saved(tmp_path, adapter, rank, alpha, **more), LoraSpec(4, 8, ()), seed=5)
    for ours, theirs in zip(products(read, 2.0), products(adapter, scaling), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    new = initial_adapter({key: tuple(factor.shape) for key, factor in read.items()}, 5)
    for key, factor in read.items():
        assert torch.equal(dequantize(quantize(factor)), factor), "on the grid, so that updates add exactly"
        if key.endswith(LORA_A):
            assert torch.equal(factor[rank:], new[key][rank:]) and factor[rank:].all()
        else:
            assert not factor[:, rank:].any()


def test_half_precision_is_read(tmp_path: Path) -> None:
    adapter = {key: factor.bfloat16() for key, factor in random_adapter(4).items()}
    saved(tmp_path, random_adapter(4), 4, 8)
    safetensors.torch.save_file(adapter, tmp_path / "adapter_model.safetensors")
    read = read_peft(tmp_path, LoraSpec(4, 8, ()), seed=5)
    assert all(torch.equal(read[key], dequantize(quantize(factor.float()))) for key, factor in adapter.items())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"peft_type": "LOHA"}, "holds no LoRA adapter"),
        ({"use_dora": True}, "has use_dora = True, which runs do not know"),
        ({"bias": "all"}, "has bias = all"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save = ['lm_head']"),
        ({"rank_pattern": {"q_proj": 2}}, "has rank_pattern"),
        ({"r": 0}, "r = 0"),
        ({"lora_alpha": "x"}, "lora_alpha = 'x'"),
        ({"r": 3}, "is not of rank 3"),
        ({"r": 16}, "has rank 16, more than lora.rank = 4; set lora.rank=16"),
    ],
)
def test_another_kind_of_adapter_is_refused(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    folder = saved(tmp_path, random_adapter(4), 4, 8, **more)
    assert told in refusal(lambda: read_peft(folder, LoraSpec(4, 8, ()), seed=5))


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    spec = LoraSpec(4, 8, ())
    assert "neither an adapter folder" in refusal(lambda: adapter_folder(tmp_path))
    folder = saved(tmp_path / "adapter", random_adapter(4), 4, 8)
    assert adapter_folder(tmp_path) == adapter_folder(folder) == folder
    factors = folder / "adapter_model.safetensors"
    whole = factors.read_bytes()
    factors.write_bytes(whole[:-3])
    assert "does not read" in refusal(lambda: read_peft(folder, spec, 5))
    safetensors.torch.save_file({"base_model.model.embed.lora_embedding_A": torch.ones(4, 6)}, factors)
    assert "no factor of a linear layer" in refusal(lambda: read_peft(folder, spec, 5))
    adapter = random_adapter(4)
    adapter[LAYERS[0] + LORA_A][0, 0] = math.nan
    factors.write_bytes(canonical_bytes(adapter))
    assert "not finite" in refusal(lambda: read_peft(folder, spec, 5))
    factors.unlink()
    assert "only safetensors are read" in refusal(lambda: read_peft(folder, spec, 5))
    (folder / "adapter_config.json").write_text("{")
    assert "does not read" in refusal(lambda: read_peft(folder, spec, 5))


def test_it_must_be_of_this_model_and_these_layers() -> None:
    adapter = random_adapter(4)
    data, shapes = canonical_bytes(adapter), {key: tuple(factor.shape) for key, factor in adapter.items()}
    require_start(data, shapes)
    more = shapes | {"base_model.model.a.up_proj" + LORA_A: (4, 6), "base_model.model.a.up_proj" + LORA_B: (4, 4)}
    assert "lacks factors of up_proj (1 layers)" in refusal(lambda: require_start(data, more))
    less = {key: shape for key, shape in shapes.items() if ".b." not in key}
    assert "has also factors of q_proj (1 layers)" in refusal(lambda: require_start(data, less))
    other = shapes | {LAYERS[0] + LORA_A: (4, 7)}
    assert "is of another base model" in refusal(lambda: require_start(data, other))
