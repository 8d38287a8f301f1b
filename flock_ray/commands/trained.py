"""What a finished run trained, loaded again: its base model and its adapter."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from flock_ray.cluster.run_directory import RunDirectory, load_any_config
from flock_ray.config import ArenaConfig, Config, DataConfig, ModelConfig, settled_as
from flock_ray.errors import ModelError, RunDirectoryError
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, require_fit
from flock_ray.lora.serialization import Adapter, rank_of
from flock_ray.training.model import BaseModel, ModelSpec, load_base, locate, model_hashes


@dataclass(frozen=True)
class Trained:
    """A finished run's model.

    Attributes:
        config: of the run; that of a contest in an alliance's words.
        base: as it is; nothing is put into it yet.
        spec: of the adapter.
        adapter: its factors.
    """

    config: Config
    base: BaseModel
    spec: LoraSpec
    adapter: Adapter


def finished_run(path: Path) -> RunDirectory:
    """The folder of a run that has an adapter.

    Raises:
        RunDirectoryError: it is none.
    """
    if not (path / "config.yaml").is_file():
        raise RunDirectoryError(f"{path} holds no run (config.yaml is missing); give its folder")
    run = RunDirectory(path.resolve())
    if not (run.adapter / "adapter_model.safetensors").is_file():
        raise RunDirectoryError(f"the run in {path} is not finished: it has no adapter yet; resume={path} continues it")
    return run


def load_trained(path: Path, threads: int = 0) -> Trained:
    """Load the base model of a run, on a GPU if there is one, and its adapter.

    Args:
        path: folder of the run.
        threads: of the CPU; 0 for those of a worker of the run.

    Raises:
        RunDirectoryError: there is no finished run.
        ModelError: the base model is missing, or another one than the run's.
    """
    run = finished_run(path)
    found = load_any_config(run.path)
    config = _of_alliance(found) if isinstance(found, ArenaConfig) else found
    base = load_agreed_base(
        config.model, run.read_task()[0]["terms"], threads or config.cluster.threads_per_worker, path
    )
    try:
        data = (run.adapter / "adapter_model.safetensors").read_bytes()
        rank, alpha = config.lora.rank, config.lora.alpha
        if isinstance(found, ArenaConfig):  # the leader has a rank of its own, and the scaling 1
            rank = alpha = rank_of(data)
        spec, adapter = LoraSpec(rank, alpha, tuple(config.lora.target_modules)), safetensors.torch.load(data)
        require_fit(adapter, adapter_shapes(base.model, spec.target_modules, rank))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise RunDirectoryError(f"the adapter in {run.adapter} does not read: {error}") from None
    return Trained(config, base, spec, adapter)


def _of_alliance(arena: ArenaConfig) -> Config:
    """What of a contest's configuration is asked of a trained model, as an alliance's."""
    return replace(settled_as(arena), data=DataConfig(template_date=arena.contest.template_date))


def load_agreed_base(model: ModelConfig, terms: Mapping[str, Any], threads: int, path: Path) -> BaseModel:
    """Load a base model, on a GPU if there is one, if it is the one that a run's members agreed on.

    Args:
        model: which, and where it is.
        terms: of the run, as JSON: its hashes are compared before anything is loaded.
        threads: of the CPU.
        path: folder of the run, for errors.

    Raises:
        ModelError: it is missing, does not load, or is another one.
    """
    torch.set_num_threads(threads)  # more than there are free cores spin
    device = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ.setdefault("DS_ACCELERATOR", device)  # DeepSpeed, which transformers imports, says what it guesses
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # it warns of PEFT's use of it
    spec = ModelSpec(model.source, model.path, model.revision, model.dtype, device)
    folder, name = locate(spec)
    differing = model_hashes(folder).differing(terms)
    if differing:
        raise ModelError(f"{name} is another base model than that of the run in {path}: its {differing} differ")
    return load_base(spec)
