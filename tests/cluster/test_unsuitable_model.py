"""A model that cannot train as configured is refused when it is loaded: nobody has staked by then."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, MixtralConfig

from flock_ray.cluster.launch import group_specs
from flock_ray.cluster.placement import make_plan
from flock_ray.cluster.spec import GroupInfo
from flock_ray.config import Backend
from flock_ray.errors import ModelError, TrainingError
from tests.cluster.plain_alliance import load_node, tiny_config
from tests.training.test_architecture import GPT2, SMALL

pytestmark = pytest.mark.model


def folder_of(config: Any, tokenizer: Path, folder: Path, spoil: bool = False) -> Path:
    shutil.copytree(tokenizer, folder)
    (folder / "model.safetensors").unlink()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        if spoil:
            model.get_input_embeddings().weight.data.fill_(torch.nan)
        model.save_pretrained(folder)
    return folder


def load(model: Path, folder: Path, backend: Backend = Backend.auto) -> GroupInfo:
    config = tiny_config(model)
    config.training.backend = backend
    spec = group_specs(config, make_plan(config), folder, str(folder / "store"))[0]
    settings, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    try:
        return load_node(replace(spec, preload=frozenset()))[1]
    finally:
        torch.use_deterministic_algorithms(settings)
        torch.set_num_threads(threads)


def test_a_soft_cap_makes_members_train_one_after_the_other(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = folder_of(Gemma2Config(**SMALL), tiny_model_dir, tmp_path / "model")
    [note] = load(model, tmp_path).notes
    assert note.startswith("Members train one after the other (training.backend=sequential): ") and "soft cap" in note
    assert load(model, tmp_path, Backend.sequential).notes == ()
    with pytest.raises(ModelError, match=r"soft cap, which training\.backend=stacked does not do"):
        load(model, tmp_path, Backend.stacked)


def test_experts_that_do_not_train_are_told(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = folder_of(MixtralConfig(**SMALL, num_local_experts=4), tiny_model_dir, tmp_path / "model")
    [note] = load(model, tmp_path).notes
    assert note.startswith("The adapter leaves out the experts")


def test_a_model_without_linear_layers_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no nn\.Linear layer but its output head"):
        load(folder_of(GPT2Config(**GPT2), tiny_model_dir, tmp_path / "model"), tmp_path)


def test_weights_that_are_no_numbers_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = folder_of(MixtralConfig(**SMALL, num_local_experts=4), tiny_model_dir, tmp_path / "model", spoil=True)
    with pytest.raises(TrainingError, match="tried before the task begins, fails: the loss of local step 1 is nan"):
        load(model, tmp_path)
