"""What a finished run trained, loaded again: its base model and its adapter."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from flock_ray.cluster.run_directory import RunDirectory, load_config
from flock_ray.config import Config
from flock_ray.errors import ModelError, RunDirectoryError
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, require_fit
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.encoding import to_hex
from flock_ray.training.model import BaseModel, ModelSpec, load_base


@dataclass(frozen=True)
class Trained:
    """A finished run's model.

    Attributes:
        config: of the run.
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
    config = load_config(run.path)
    torch.set_num_threads(threads or config.cluster.threads_per_worker)  # more than there are free cores spin
    model = config.model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ.setdefault("DS_ACCELERATOR", device)  # DeepSpeed, which transformers imports, says what it guesses
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # it warns of PEFT's use of it
    base = load_base(ModelSpec(model.source, model.path, model.revision, model.dtype, device))
    trained_on, here = run.read_task()[0]["terms"]["base_model"], to_hex(base.hashes.weights)
    if trained_on != here:
        raise ModelError(f"{base.name} is another base model than that of the run in {path}: its weights differ")
    spec = LoraSpec(config.lora.rank, config.lora.alpha, tuple(config.lora.target_modules))
    try:
        adapter = safetensors.torch.load_file(run.adapter / "adapter_model.safetensors")
        require_fit(adapter, adapter_shapes(base.model, spec.target_modules, spec.rank))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise RunDirectoryError(f"the adapter in {run.adapter} does not read: {error}") from None
    return Trained(config, base, spec, adapter)
