from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flock_ray.cluster.adapter_folder import write_adapter_folder
from flock_ray.cluster.spec import GroupInfo
from flock_ray.config import Config, LoraConfig, ModelConfig
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.telemetry.summary import build_summary
from flock_ray.telemetry.views import MemberTotal
from flock_ray.training.model import ModelHashes

pytestmark = pytest.mark.model

NAME = "base_model.model.layers.0.q_proj"
FACTORS = {f"{NAME}.lora_A.weight": torch.ones(2, 3), f"{NAME}.lora_B.weight": torch.ones(4, 2)}
LOADED = GroupInfo(
    {}, (), "a|model", ModelHashes(b"w" * 32, b"c" * 32, b"t" * 32), "float32", 1, b"", "/nowhere", ("q_proj",)
)
MEMBER = MemberTotal(0, "silo_0 *new*|x", "0x" + "ab" * 20, False, 1_234, 1, 0, None, 0, 0, 10**18, 10**18, 10**18)


def written(folder: Path, model: ModelConfig, loaded: GroupInfo) -> tuple[dict[str, Any], str, list[str]]:
    config, told = Config(model=model, lora=LoraConfig(2, 4, ["q_proj"])), list[str]()
    summary = build_summary(
        run_id="r", task_id="0x12", model="m", epochs=[], members=[MEMBER], final_adapter_hash="0x34",
        chain={"backend": "none", "chain_id": 0}, facts={},
    )  # fmt: skip
    write_adapter_folder(folder, canonical_bytes(FACTORS), config, loaded, summary, [MEMBER], b"a" * 32, told.append)
    return json.loads((folder / "adapter_config.json").read_text()), (folder / "README.md").read_text(), told


def test_a_base_of_this_machine_is_named_by_its_folder(tmp_path: Path, tiny_model_dir: Path) -> None:
    loaded = replace(LOADED, model_folder=str(tiny_model_dir))
    config, card, told = written(tmp_path, ModelConfig("folder", str(tiny_model_dir)), loaded)
    assert config["base_model_name_or_path"] == str(tiny_model_dir) and "revision" not in config and told == []
    assert (tmp_path / "tokenizer.json").read_bytes() == (tiny_model_dir / "tokenizer.json").read_bytes()
    assert card.startswith("---\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n")
    assert "| a\\|model |" in card and "| settled on | none |\n" in card and "1,234" in card
    assert r"| 0 | silo\_0 \*new\*\|x |" in card
    assert "that of the base model" in card


def test_a_base_of_the_hub_is_named_by_its_id(tmp_path: Path, tiny_model_dir: Path) -> None:
    loaded = replace(LOADED, model_folder=str(tiny_model_dir))
    for revision in ("main", "v2"):
        config, card, told = written(tmp_path, ModelConfig("hub", "us/it", revision), loaded)
        assert config["base_model_name_or_path"] == "us/it" and told == []
        assert config.get("revision") == (None if revision == "main" else revision)
        assert "base_model: us/it\n" in card


def test_a_base_of_other_machines_only_is_said(tmp_path: Path) -> None:
    config, card, (told,) = written(tmp_path, ModelConfig(), LOADED)
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "is not on this machine" in told and "names the base as HuggingFaceTB/" in told
    assert "license: apache-2.0\n" in card
    config, _, _ = written(tmp_path, ModelConfig("folder", "/nowhere"), LOADED)
    assert config["base_model_name_or_path"] == "/nowhere"
