from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from flock_ray.errors import AdapterError
from flock_ray.lora.fixed_point import dequantize, quantize
from flock_ray.lora.foreign import CONFIG, FACTORS, read_foreign, with_rank
from flock_ray.lora.serialization import Adapter

PREFIX = "base_model.model.model.layers"
SIZES = {"0.self_attn.q_proj": (7, 5), "0.mlp.up_proj": (6, 7), "1.self_attn.q_proj": (7, 5), "1.mlp.up_proj": (6, 7)}
SHAPES = {
    f"{PREFIX}.{layer}.{factor}.weight": ((1, inner) if factor == "lora_A" else (outer, 1))
    for layer, (inner, outer) in SIZES.items()
    for factor in ("lora_A", "lora_B")
}
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "use_dora": False, "modules_to_save": None}


def factors(ranks: Mapping[str, int], dtype: torch.dtype = torch.float32) -> Adapter:
    generator = torch.Generator().manual_seed(3)
    made = {}
    for layer, rank in ranks.items():
        inner, outer = SIZES[layer]
        made[f"{PREFIX}.{layer}.lora_A.weight"] = torch.randn(rank, inner, generator=generator).to(dtype)
        made[f"{PREFIX}.{layer}.lora_B.weight"] = torch.randn(outer, rank, generator=generator).to(dtype)
    return made


def save(folder: Path, tensors: Adapter, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(PLAIN | config))
    safetensors.torch.save_file(tensors, folder / FACTORS, metadata={"format": "pt"})
    return folder


def product(adapter: Adapter, layer: str) -> torch.Tensor:
    a, b = (adapter[f"{PREFIX}.{layer}.{name}.weight"].double() for name in ("lora_A", "lora_B"))
    return b @ a


ALL = dict.fromkeys(SIZES, 2)


def test_a_plain_adapter_comes_in_with_its_scaling_folded_into_b(tmp_path: Path) -> None:
    given = factors(ALL)
    read = read_foreign(save(tmp_path, given), SHAPES, max_rank=8)
    assert {key: tuple(one.shape) for key, one in read.items()} == with_rank(SHAPES, 2)
    assert list(read) == sorted(read) and all(one.dtype == torch.float32 for one in read.values())
    for layer in SIZES:
        torch.testing.assert_close(product(read, layer), 3 * product(given, layer), rtol=1e-5, atol=1e-5)
    for one in read.values():
        assert torch.equal(dequantize(quantize(one)), one)


def test_patterns_rank_stabilisation_and_missing_layers(tmp_path: Path) -> None:
    ranks = {"0.self_attn.q_proj": 4, "0.mlp.up_proj": 2, "1.self_attn.q_proj": 1}
    given = factors(ranks)
    folder = save(
        tmp_path,
        given,
        use_rslora=True,
        rank_pattern={"layers.1.self_attn.q_proj": 1, "q_proj": 4},
        alpha_pattern={"^model.layers.0.mlp.up_proj": 10, "up_proj": 99},
    )
    read = read_foreign(folder, SHAPES, max_rank=4)
    assert {key: tuple(one.shape) for key, one in read.items()} == with_rank(SHAPES, 4)
    for layer, scaling in {
        "0.self_attn.q_proj": 6 / 2,
        "0.mlp.up_proj": 10 / 2**0.5,
        "1.self_attn.q_proj": 6.0,
    }.items():
        torch.testing.assert_close(product(read, layer), scaling * product(given, layer), rtol=1e-5, atol=1e-5)
    assert not product(read, "1.mlp.up_proj").any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    given = factors(ALL, dtype)
    read = read_foreign(save(tmp_path, given), SHAPES, max_rank=2)
    for layer in SIZES:
        torch.testing.assert_close(product(read, layer), 3 * product(given, layer), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"loftq_config": {"bits": 4}}, "init_lora_weights"),
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"r": 0}, "r has 0"),
        ({"r": True}, "r has True"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"alpha_pattern": {"(a+)+$": 4}}, "expression"),
        ({"r": 3}, "rank 3"),
    ],
)
def test_what_is_not_taken_is_refused_by_its_name(tmp_path: Path, config: dict[str, Any], named: str) -> None:
    folder = save(tmp_path, factors(ALL), **config)
    with pytest.raises(AdapterError) as caught:
        read_foreign(folder, SHAPES, max_rank=8)
    assert named in str(caught.value) and "\n" not in str(caught.value) and CONFIG in str(caught.value)


def bad_factors() -> dict[str, tuple[Adapter, str]]:
    good = factors(ALL)
    key = f"{PREFIX}.0.mlp.up_proj.lora_B.weight"
    other = f"{PREFIX}.9.mlp.up_proj.lora_B.weight"
    return {
        "nothing": ({}, "no factors"),
        "another model's layer": (good | {other: torch.zeros(7, 2)}, "9.mlp"),
        "a magnitude vector": (good | {f"{PREFIX}.0.mlp.up_proj.lora_magnitude_vector": torch.zeros(7)}, "magnitude"),
        "an embedding": (good | {"base_model.model.lm_head.weight": torch.zeros(3, 3)}, "lm_head"),
        "keys without their prefix": ({k.removeprefix("base_model."): v for k, v in good.items()}, "no factor"),
        "half a pair": ({k: v for k, v in good.items() if k != key}, "without"),
        "a type": (good | {key: good[key].double()}, "F64"),
        "integers": (good | {key: good[key].int()}, "I32"),
        "a shape": (good | {key: torch.zeros(8, 2)}, "shape"),
        "a dimension": (good | {key: torch.zeros(7, 2, 1)}, "shape"),
        "NaN": (good | {key: torch.full((7, 2), torch.nan)}, "not finite"),
        "infinity": (good | {key: torch.full((7, 2), torch.inf)}, "not finite"),
        "too large once scaled": (good | {key: torch.full((7, 2), 2.0**27)}, "scaling"),
    }


@pytest.mark.parametrize("what", bad_factors())
def test_factors_that_do_not_fit_are_refused(tmp_path: Path, what: str) -> None:
    tensors, named = bad_factors()[what]
    tensors = {key: one.contiguous() for key, one in tensors.items()}
    folder = save(tmp_path, tensors)
    with pytest.raises(AdapterError) as caught:
        read_foreign(folder, SHAPES, max_rank=8)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_ranks_and_sizes_have_a_limit_and_a_bomb_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="at most 1"):
        read_foreign(save(tmp_path / "rank", factors(ALL)), SHAPES, max_rank=1)
    bomb = save(tmp_path / "bomb", factors(ALL))
    with (bomb / FACTORS).open("r+b") as file:
        file.truncate(1 << 40)  # sparse: takes no room, and no reader may try
    with pytest.raises(AdapterError, match="1099511627776 bytes"):
        read_foreign(bomb, SHAPES, max_rank=8)
    long = save(tmp_path / "config", factors(ALL))
    (long / CONFIG).write_text(" " * (1 << 21))
    with pytest.raises(AdapterError, match="2097152 bytes"):
        read_foreign(long, SHAPES, max_rank=8)


class Armed:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("armed"),)


def test_pickles_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "adapter", factors(ALL))
    (folder / FACTORS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Armed()))
    with pytest.raises(AdapterError, match=r"adapter_model\.bin may run code"):
        read_foreign(folder, SHAPES, max_rank=8)
    (folder / FACTORS).write_bytes(pickle.dumps(Armed()))
    with pytest.raises(AdapterError, match="no safetensors file"):
        read_foreign(folder, SHAPES, max_rank=8)
    assert not (tmp_path / "armed").exists()


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=f"no {CONFIG}"):
        read_foreign(tmp_path, SHAPES, max_rank=8)
    folder = save(tmp_path, factors(ALL))
    for text in ("", "[]", "{", "[" * 10_000):
        (folder / CONFIG).write_text(text)
        with pytest.raises(AdapterError):
            read_foreign(folder, SHAPES, max_rank=8)
    (save(tmp_path, factors(ALL)) / FACTORS).unlink()
    with pytest.raises(AdapterError, match=f"no {FACTORS}"):
        read_foreign(tmp_path, SHAPES, max_rank=8)
