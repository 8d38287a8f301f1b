from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM, PreTrainedModel

from flock_ray.errors import ModelError
from flock_ray.lora.peft_io import LoraSpec, inject
from flock_ray.training.data import IGNORED
from flock_ray.training.loss import EVALUATION_ROWS, CausalLoss, PackedLoss, collate, sequence_losses
from flock_ray.training.model import BaseModel, load_base
from flock_ray.training.packing import pack
from flock_ray.training.torch_engine import TorchEngine
from tests.training.samples import losses_of, random_examples, starting_adapter, tiny_spec

pytestmark = pytest.mark.model

CPU = torch.device("cpu")


def test_collate_pads_to_the_right_without_labels() -> None:
    examples = random_examples(3)
    ids, labels = collate(examples, CPU)
    assert ids.shape == labels.shape == (3, 24)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        assert torch.equal(ids[row, :size], example.input_ids)
        assert torch.equal(labels[row, :size], example.labels)
        assert (labels[row, size:] == IGNORED).all()


def test_padding_and_neighbours_change_no_loss(base: BaseModel, engine: TorchEngine) -> None:
    adapter, examples = starting_adapter(base), random_examples(2 * EVALUATION_ROWS + 3)
    together = losses_of(engine, adapter, examples)
    for example, loss in zip(examples, together, strict=True):
        [alone] = losses_of(engine, adapter, [example])
        assert loss.nll == pytest.approx(alone.nll, rel=1e-5)
        assert loss.num_tokens == alone.num_tokens == example.num_labels


def losses_of_transformers(model: PreTrainedModel) -> list[float]:
    """Mean loss by transformers x labelled tokens, of each sequence by itself."""
    with torch.no_grad():
        return [
            float(model(input_ids=example.input_ids[None], labels=example.labels[None]).loss) * example.num_labels
            for example in random_examples(4)
        ]


def check_against_transformers(model: PreTrainedModel, losses: CausalLoss) -> None:
    """Our losses, padded and packed, against theirs."""
    theirs = losses_of_transformers(model)
    with torch.no_grad():
        ours = losses(*collate(random_examples(4), CPU))
    assert ours.tolist() == pytest.approx(theirs, rel=1e-5)


def check_packed_against_transformers(model: PreTrainedModel) -> None:
    theirs = losses_of_transformers(model)
    for chunk_tokens in (None, 7, 1_000):
        with torch.no_grad():
            ours = PackedLoss(model, chunk_tokens)(pack(random_examples(4), CPU))
        assert ours.tolist() == pytest.approx(theirs, rel=1e-5)


def test_equals_transformers_loss(tiny_model_dir: Any) -> None:
    model = load_base(tiny_spec(tiny_model_dir)).model
    check_packed_against_transformers(model)
    model = load_base(tiny_spec(tiny_model_dir)).model
    check_against_transformers(model, CausalLoss(inject(model, LoraSpec(2, 4, ("q_proj",))), torch.float32))


@pytest.mark.parametrize(
    ("family", "configuration", "extra"),
    [
        (Gemma2ForCausalLM, Gemma2Config, {"final_logit_softcapping": 0.5, "head_dim": 8}),
        (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 4.0}),
    ],
)
def test_models_that_change_their_logits(family: Any, configuration: Any, extra: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = configuration(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        pad_token_id=0,
        initializer_range=0.5,
        **extra,
    )
    model = family(config).eval()
    if family is GraniteForCausalLM:
        check_packed_against_transformers(model)
        model.set_attn_implementation("eager")
    else:
        with pytest.raises(ModelError, match=r"soft cap.*training\.backend=sequential"):
            check_packed_against_transformers(model)
        model.set_attn_implementation("eager")
    check_against_transformers(model, CausalLoss(inject(model, LoraSpec(2, 4, ("q_proj",))), torch.float32))


def test_without_labels_the_loss_is_zero_and_so_are_its_gradients(base: BaseModel, tiny_model_dir: Any) -> None:
    losses = CausalLoss(inject(load_base(tiny_spec(tiny_model_dir)).model, LoraSpec(2, 4, ("q_proj",))), torch.float32)
    ids, labels = collate(random_examples(2), CPU)
    total = losses(ids, torch.full_like(labels, IGNORED)).sum()
    total.backward()
    assert total.item() == 0.0
    gradients = [parameter.grad for parameter in losses.parameters() if parameter.requires_grad]
    assert gradients and all(gradient is not None and not gradient.any() for gradient in gradients)


def test_evaluation_leaves_no_gradients(tiny_model_dir: Any) -> None:
    losses = CausalLoss(inject(load_base(tiny_spec(tiny_model_dir)).model, LoraSpec(2, 4, ("q_proj",))), torch.float32)
    sequence_losses(losses, random_examples(2), CPU)
    assert all(parameter.grad is None for parameter in losses.parameters())
