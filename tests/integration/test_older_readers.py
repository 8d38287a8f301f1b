"""A saved adapter and the converted base open in earlier versions of PEFT and transformers, to the same losses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.peers.environments import PEERS, python_of
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.peft_io import LoraSpec, adapter_shapes, save_peft, shortest_targets
from flock_ray.lora.serialization import canonical_bytes
from flock_ray.training.model import ModelSpec, load_base
from flock_ray.training.model_files import copy_tokenizer

pytestmark = [pytest.mark.model, pytest.mark.deep]

TEXT = "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the packaged model with random factors, saved as a run saves it."""
    folder, spec = tmp_path_factory.mktemp("saved") / "adapter", LoraSpec(4, 8, ("all-linear",))
    base = load_base(ModelSpec("packaged", "", "main", "float32", "cpu"))
    factors = initial_adapter(adapter_shapes(base.model, spec.target_modules, spec.rank), seed=3)
    generator = torch.Generator().manual_seed(4)
    moved = {
        key: value if value.any() else torch.randn(value.shape, generator=generator) / 10
        for key, value in factors.items()
    }
    targets = shortest_targets(base.model, spec.target_modules)
    save_peft(folder, canonical_bytes(moved), spec, targets, str(base.folder.resolve()))
    copy_tokenizer(base.folder, folder)
    return folder


def opened(python: str, adapter: Path) -> dict[str, Any]:
    command = [python, str(PEERS / "open_adapter.py"), str(adapter), TEXT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=adapter)
    assert done.returncode == 0, done.stderr[-2_000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def today(adapter: Path) -> dict[str, Any]:
    return opened(sys.executable, adapter)


@pytest.mark.parametrize(("name", "version"), [("peft_0_10", "0.10."), ("peft_0_13", "0.13.")])
def test_an_older_peft_reads_the_same(name: str, version: str, adapter: Path, today: dict[str, Any]) -> None:
    found = opened(str(python_of(name)), adapter)
    assert found["peft"].startswith(version)
    assert abs(today["adapter"] - today["base"]) > 0.05, "the adapter changes something"
    for loss in ("base", "adapter"):
        assert found[loss] == pytest.approx(today[loss], abs=1e-4), f"{loss} of transformers {found['transformers']}"
    assert (found["ids"], found["chat"]) == (today["ids"], today["chat"])
