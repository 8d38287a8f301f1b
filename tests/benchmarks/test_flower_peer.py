"""What the benchmark against Flower hands over, and how it reads times."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks.flower_peer import Point, Rounds
from benchmarks.peers.flower_task import Task
from benchmarks.peers.process_tree import Usage, Watched, watch
from flock_ray.lora.peft_io import LoraSpec, inject, load_adapter
from flock_ray.lora.serialization import Adapter
from tests.runs import Run

pytestmark = pytest.mark.model


def train(folder: Path, number: int, member: int, start: Adapter) -> list[float]:
    """The loss of each local step in plain PEFT, from the files of a dumped task alone."""
    plan = json.loads((folder / "plan.json").read_text())
    batches = load_file(folder / "batches.safetensors")
    base = AutoModelForCausalLM.from_pretrained(plan["model"], dtype=getattr(torch, plan["dtype"]))
    model = inject(base, LoraSpec(plan["rank"], plan["alpha"], (plan["targets"],)))
    load_adapter(model, start)
    factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(factors, weight_decay=plan["weight_decay"])
    losses = []
    ids, labels = (batches[f"{number}/{member}/{name}"] for name in ("ids", "labels"))
    for rate, rows, targets in zip(plan["rounds"][number - 1]["rates"], ids, labels, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        loss = model(input_ids=rows, labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors, plan["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_dumped_task_is_what_the_run_trained(whole_run: Run, tmp_path: Path) -> None:
    task = Task.of(whole_run.path)
    task.dump(tmp_path / "task")
    trained = {(one["epoch"], one["member"]): one for one in whole_run.events("trained")}
    plan = json.loads((tmp_path / "task" / "plan.json").read_text())
    assert set(trained) >= {(n, m) for n, one in enumerate(plan["rounds"], start=1) for m in one["members"]}
    start = load_file(tmp_path / "task" / "start.safetensors")
    for member in plan["rounds"][0]["members"]:
        event, losses = trained[1, member], train(tmp_path / "task", 1, member, start)
        # The last one is so only after the same batches, in the same order, at the same rates.
        assert [losses[0], losses[-1]] == pytest.approx([event["first_loss"], event["last_loss"]], abs=1e-4)


def test_losses_and_cosine_tell_adapters_apart(whole_run: Run) -> None:
    task = Task.of(whole_run.path)
    final = load_file(whole_run.path / "adapter" / "adapter_model.safetensors")
    losses = task.losses({"final": final})
    honest = whole_run.summary["epochs"][-1]["eval_loss_after"]
    assert len(task.silos) == len(honest) + 1  # the adversary's silo is in no summary
    assert losses["final"] < losses["start"]
    moved = {key: 2 * factor - task.start[key] for key, factor in final.items()}  # twice as far, the same way
    away = {key: 2 * task.start[key] - factor for key, factor in final.items()}
    assert task.cosine(final, moved) == pytest.approx(1, abs=1e-4)
    assert task.cosine(final, away) == pytest.approx(-1, abs=1e-4)


def test_the_share_held_out_is_that_of_the_default_experiment() -> None:
    assert Point("", 4, 15, 4, 128, (4,), "").heldout_tokens == 1024
    assert Point("", 4, 1, 1, 64, (4,), "").heldout_tokens == 128


def test_rounds_leave_out_warm_up_and_start_up() -> None:
    samples = [Usage(float(second), 2.0 * second, 100.0 + second) for second in range(100, 141, 10)]
    rounds = Rounds.of(Watched("", samples), [105.0, 120.0, 127.5, 140.0])
    assert rounds.seconds == [7.5, 12.5]
    assert rounds.cpu_seconds == pytest.approx([15.0, 25.0])
    assert (rounds.start_up_seconds, rounds.warm_up_seconds, rounds.peak_memory_mb) == (5.0, 15.0, 240.0)


BURN = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def test_the_cpu_of_descendants_counts(tmp_path: Path) -> None:
    both = f"import os\nchild = os.fork()\n{BURN}\nif child:\n    os.wait()\n    print('done')\n    time.sleep(3)"
    watched = watch([sys.executable, "-c", both], tmp_path, every=0.05)
    assert watched.stdout == "done\n"
    assert watched.samples[-1].cpu >= 0.6  # more than its own half second


def test_a_command_that_fails_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: -c ended with 3: out of luck"):
        watch([sys.executable, "-c", "import sys\nprint('out of luck', file=sys.stderr)\nsys.exit(3)"], tmp_path)
