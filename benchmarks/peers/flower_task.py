"""What a run of ours trained on, written so that another framework can do the same without anything of this project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from flock_ray.cluster.launch import group_specs
from flock_ray.cluster.placement import make_plan
from flock_ray.cluster.run_directory import RunDirectory, load_config
from flock_ray.cluster.spec import GroupSpec
from flock_ray.lora.algebra import initial_adapter, subtract
from flock_ray.lora.peft_io import ALL_LINEAR, adapter_shapes, inject, load_adapter
from flock_ray.lora.serialization import Adapter, adapter_hash, canonical_bytes
from flock_ray.protocol.encoding import from_hex
from flock_ray.protocol.seed import local_seed
from flock_ray.training.data import Silo, batches, load_silo
from flock_ray.training.loss import collate
from flock_ray.training.model import load_base

ATTENTION = "eager"
"""As our own model is loaded on a CPU: faster there for short sequences."""


@dataclass(frozen=True)
class Task:
    """A run that has ended.

    Attributes:
        spec: of one of the node groups, which differ in the members that they host.
        model: folder of the base model.
        dtype: of its weights in the run, `bfloat16` or `float32`.
        silos: of all members.
        start: the adapter of the first epoch.
        rounds: members that proposed in each epoch, ascending.
    """

    spec: GroupSpec
    model: str
    dtype: str
    silos: dict[int, Silo]
    start: Adapter
    rounds: list[tuple[int, ...]]

    @classmethod
    def of(cls, folder: Path) -> Task:
        """Read it from the folder of a run that has ended."""
        config = load_config(folder)
        spec = group_specs(config, make_plan(config), folder, "")[0]
        base = load_base(spec.model)
        numbers = range(config.alliance.num_members)
        silos = {member: load_silo(spec.data, member, base.tokenizer) for member in numbers}
        shapes = adapter_shapes(base.model, spec.lora.target_modules, spec.lora.rank)
        start = initial_adapter(shapes, local_seed(spec.run_seed, "adapter"))
        assert adapter_hash(start) == from_hex(RunDirectory(folder).read_task()[0]["terms"]["start_adapter"])
        epochs = json.loads((folder / "summary.json").read_text())["epochs"]
        rounds = [tuple(sorted(proposal["member"] for proposal in epoch["proposals"])) for epoch in epochs]
        dtype = str(base.dtype).removeprefix("torch.")
        return cls(spec, base.model.name_or_path, dtype, silos, start, rounds)

    def dump(self, folder: Path) -> None:
        """Write the folder that `flower_app.py` reads, in place of what was there.

        `plan.json` has model, adapter, optimizer and, for each round, members and learning rates;
        `start.safetensors` the first adapter; `batches.safetensors` for each round and member `ROUND/MEMBER/ids` and
        `ROUND/MEMBER/labels`, [steps, batch, sequence] int64.
        """
        spec, targets = self.spec, self.spec.lora.target_modules
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "start.safetensors").write_bytes(canonical_bytes(self.start))
        tensors: dict[str, torch.Tensor] = {}
        rounds = []
        for epoch, members in enumerate(self.rounds, start=1):
            settings = spec.settings.of_epoch(epoch, spec.num_epochs)
            rounds.append({"members": members, "rates": [settings.rate(step) for step in range(settings.steps)]})
            for member in members:
                seed = local_seed(spec.run_seed, "batches", epoch, member)
                drawn = batches(self.silos[member], settings.steps, settings.batch_size, seed)
                rows = collate([example for batch in drawn for example in batch], torch.device("cpu"))
                for name, values in zip(("ids", "labels"), rows, strict=True):
                    tensors[f"{epoch}/{member}/{name}"] = values.unflatten(0, (settings.steps, settings.batch_size))
        safetensors.torch.save_file(tensors, folder / "batches.safetensors")
        plan = {
            "model": self.model,
            "dtype": self.dtype,
            "attention": ATTENTION,
            "rank": spec.lora.rank,
            "alpha": spec.lora.alpha,
            "targets": ALL_LINEAR if targets == (ALL_LINEAR,) else list(targets),
            "weight_decay": spec.settings.weight_decay,
            "max_grad_norm": spec.settings.max_grad_norm,
            "clients": len(self.rounds[0]),
            "rounds": rounds,
        }
        (folder / "plan.json").write_text(json.dumps(plan))

    def losses(self, adapters: Mapping[str, Adapter]) -> dict[str, float]:
        """Held-out loss under each adapter and under `start`, nats a token, mean over all members.

        In plain transformers and PEFT and in float32: the rounding of bfloat16 is as large as what a few steps gain.
        """
        base = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32, attn_implementation=ATTENTION)
        model = inject(base, self.spec.lora).eval()
        losses = {}
        for name, adapter in {"start": self.start, **adapters}.items():
            load_adapter(model, adapter)
            means = []
            for silo in self.silos.values():
                ids, labels = collate(silo.heldout, torch.device("cpu"))
                with torch.no_grad():  # the model's own loss is the mean over all labelled tokens
                    means.append(model(input_ids=ids, labels=labels, use_cache=False).loss.item())
            losses[name] = fmean(means)
        return losses

    def cosine(self, left: Adapter, right: Adapter) -> float:
        """Of the angle between what two adapters have moved away from the start."""
        moves = [torch.cat([f.flatten() for f in subtract(one, self.start).values()]) for one in (left, right)]
        return float(torch.nn.functional.cosine_similarity(*[move.double() for move in moves], dim=0))
