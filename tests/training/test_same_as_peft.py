"""Eight silos of school questions in four formats: losses and adapters as plain transformers and PEFT have them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flock_ray.lora.peft_io import load_adapter
from flock_ray.lora.serialization import Adapter
from flock_ray.training.data import DataSpec, Silo, batches, load_silo
from flock_ray.training.engine import LossJob, MemberJob, TrainOutcome
from flock_ray.training.evaluation import mean_loss
from flock_ray.training.model import BaseModel, load_base
from flock_ray.training.stacked_engine import StackedEngine, StackedOptions
from tests.training.samples import LORA, SETTINGS, starting_adapter, tiny_spec
from tests.training.school import FORMATS, lines, questions

pytestmark = pytest.mark.model

STEPS = replace(SETTINGS, batch_size=1)
MEMBERS, ROWS = 8, 60
PAIRS = [questions(member, ROWS) for member in range(MEMBERS)]
Labelled = dict[tuple[int, ...], list[int]]


@pytest.fixture(scope="module")
def silos(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Silo]:
    folder = tmp_path_factory.mktemp("school")
    for member, pairs in enumerate(PAIRS):
        form = list(FORMATS)[member % len(FORMATS)]
        (folder / f"member-{member}.jsonl").write_text(lines(form, pairs))
    spec = DataSpec(
        "jsonl", str(folder), (), 1024, 0.1, 1024, 5, heldout_sequences=4, max_bad_rows=0, template_date="2025-01-01"
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    return [load_silo(spec, member, tokenizer) for member in range(MEMBERS)]


def plainly_labelled(folder: Path, pairs: list[tuple[str, str]]) -> Labelled:
    """{token ids of a question and its answer: labels}: all that stands after the prompt is learned."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labelled = {}
    for question, answer in pairs:
        asked = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": answer}], return_dict=False)
        assert ids[: len(prompt)] == prompt
        labelled[tuple(ids)] = [-100] * len(prompt) + ids[len(prompt) :]
    return labelled


def plain_peft(folder: Path, start: Adapter, labelled: Labelled, silo: Silo, seed: int) -> tuple[list[float], float]:
    """Loss before each step, and the held-out loss afterwards."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    load_adapter(model, start)
    factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(factors, STEPS.learning_rate, weight_decay=STEPS.weight_decay)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS.steps)

    def loss(ids: list[int]) -> torch.Tensor:
        labels = labelled[tuple(ids)]
        result: torch.Tensor = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        return result

    losses = []
    for [example] in batches(silo, STEPS.steps, 1, seed):
        step = loss(example.input_ids.tolist())
        losses.append(step.item())
        step.backward()
        torch.nn.utils.clip_grad_norm_(factors, STEPS.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        falling.step()
    with torch.no_grad():
        rows = [example.input_ids.tolist() for example in silo.heldout]
        sizes = [sum(label != -100 for label in labelled[tuple(row)]) for row in rows]
        heldout = math.fsum(float(loss(row)) * size for row, size in zip(rows, sizes, strict=True)) / sum(sizes)
    return losses, heldout


def test_losses_are_those_of_plain_peft(base: BaseModel, silos: list[Silo], tiny_model_dir: Path) -> None:
    start = starting_adapter(base)
    engine = StackedEngine(load_base(tiny_spec(tiny_model_dir)), LORA, StackedOptions())
    jobs = [MemberJob(start, batches(silo, STEPS.steps, 1, seed=member), STEPS) for member, silo in enumerate(silos)]
    outcomes = engine.train(jobs)
    trained = [outcome for outcome in outcomes if isinstance(outcome, TrainOutcome)]
    assert len(trained) == MEMBERS
    heldout = engine.losses([LossJob(one.adapter, silo.heldout) for one, silo in zip(trained, silos, strict=True)])
    for member, silo in enumerate(silos):
        labelled = plainly_labelled(tiny_model_dir, PAIRS[member])
        assert silo.counts.read == ROWS and not (silo.counts.cut or silo.counts.dropped or silo.counts.bad)
        assert silo.counts.target_tokens == sum(label != -100 for labels in labelled.values() for label in labels)
        losses, after = plain_peft(tiny_model_dir, start, labelled, silo, seed=member)
        assert trained[member].losses == pytest.approx(losses, abs=1e-4)
        assert mean_loss(heldout[member]) == pytest.approx(after, abs=1e-4)
        assert abs(losses[0] - after) > 1e-3  # training did change something
