from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from flock_ray.errors import AdapterError
from flock_ray.lora.foreign import read_foreign, with_rank
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, inject, load_adapter, save_peft, shortest_targets
from flock_ray.lora.serialization import canonical_bytes
from tests.lora.test_peft_io import llama, logits, random_adapter

pytestmark = pytest.mark.model

SHAPES = adapter_shapes(llama(), ("all-linear",), 1)


def trained(**options: Any) -> peft.PeftModel:
    """PEFT's own model with factors that do something."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(llama(), config)
    assert isinstance(model, peft.PeftModel)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in sorted(model.named_parameters()):
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 5
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_rslora": True},
        {
            "r": 2,
            "lora_alpha": 3,
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 5, "down_proj": 1},
            "alpha_pattern": {"q_proj": 7},
        },
    ],
)
def test_a_folder_that_peft_saved_computes_the_same_here(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = trained(**options)
    theirs.save_pretrained(str(tmp_path))
    adapter = read_foreign(tmp_path, SHAPES, max_rank=8)
    rank = max(one.shape[0] for key, one in adapter.items() if "lora_A" in key)
    ours = inject(llama(), LoraSpec(rank, rank, ("all-linear",)))
    load_adapter(ours, adapter)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(ours), logits(llama()), atol=1e-3)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}])
def test_what_peft_saves_of_other_kinds_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    trained(r=2, target_modules=["q_proj"], **options).save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match=next(iter(options))):
        read_foreign(tmp_path, SHAPES, max_rank=8)


def test_what_this_project_saves_comes_back_bit_by_bit(tmp_path: Path) -> None:
    spec, targets = LoraSpec(4, 4, ("all-linear",)), shortest_targets(llama(), ("all-linear",))
    first = tmp_path / "first"
    save_peft(first, canonical_bytes(random_adapter(with_rank(SHAPES, 4))), spec, targets, "base")
    once = read_foreign(first, SHAPES, max_rank=4)
    save_peft(tmp_path / "second", canonical_bytes(once), spec, targets, "base")
    assert canonical_bytes(read_foreign(tmp_path / "second", SHAPES, max_rank=4)) == canonical_bytes(once)
