"""transformers and PEFT as they are, serving many adapters over one base model: what the engine is measured against."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, GenerationConfig

from flock_ray.lora.peft_io import LoraSpec
from flock_ray.lora.serialization import Adapter

BASE = "__base__"
"""What PEFT calls a row without an adapter."""

Asked = tuple[tuple[int, ...], int | None]
"""A prompt, and the number of the adapter that answers."""


class PeftServer:
    """One base model with all adapters in it, unmerged.

    Attributes:
        model: PEFT's.
        factors: type of the adapters.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, spec: LoraSpec, adapters: Sequence[Adapter]) -> None:
        """Load; of factors in float32, PEFT's default, and in the base model's type the faster one is kept."""
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        base.generation_config.eos_token_id = None  # every answer has as many tokens as are asked for
        config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, config, adapter_name="0")
        for number, adapter in enumerate(adapters):
            if number:
                model.add_adapter(str(number), config)
            set_peft_model_state_dict(model, adapter, adapter_name=str(number))
        assert isinstance(model, PeftModel)
        self.model = model.eval()
        self._factors = {p: p.data for name, p in model.named_parameters() if ".lora_" in name}
        asked: list[Asked] = [(tuple(range(3, 35)), number % len(adapters)) for number in range(8)]
        took = {}
        for kind in dict.fromkeys((torch.float32, dtype)):
            self._cast(kind)
            self.mixed(asked, 2)
            began = time.perf_counter()
            self.mixed(asked, 8)
            took[kind] = time.perf_counter() - began
        fastest = min(took, key=took.__getitem__)
        self._cast(fastest)
        self.factors = str(fastest).removeprefix("torch.")

    def _cast(self, dtype: torch.dtype) -> None:
        for parameter, factor in self._factors.items():
            parameter.data = factor.to(dtype)

    def mixed(self, asked: Sequence[Asked], tokens: int) -> list[list[int]]:
        """All in one batch; prompts have one length."""
        [size] = {len(prompt) for prompt, _ in asked}
        ids = torch.tensor([prompt for prompt, _ in asked])
        names = [BASE if number is None else str(number) for _, number in asked]
        made = self._generate(ids, tokens, adapter_names=names)
        return [[int(token) for token in row[size:]] for row in made]

    def each(self, asked: Sequence[Asked], tokens: int) -> list[list[int]]:
        """One after the other, under its adapter."""
        found = []
        for prompt, number in asked:
            assert number is not None
            self.model.set_adapter(str(number))
            made = self._generate(torch.tensor([prompt]), tokens)
            found.append([int(token) for token in made[0, len(prompt) :]])
        return found

    def _generate(self, ids: torch.Tensor, tokens: int, **more: object) -> torch.Tensor:
        config = GenerationConfig(
            max_new_tokens=tokens, do_sample=False, use_cache=True, pad_token_id=0, eos_token_id=None
        )
        with torch.inference_mode():
            made: torch.Tensor = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, **more
            )
        return made

    def shortfalls(self, asked: Sequence[Asked], answers: Sequence[Sequence[int]]) -> list[float]:
        """How far each answer is from greedy under its own adapter: the most that one of its tokens is behind, in nats.

        0 where every token is the likeliest one after those before it; rounding leaves little more.
        """
        found = []
        with torch.inference_mode():
            for (prompt, number), answer in zip(asked, answers, strict=True):
                ids = torch.tensor([[*prompt, *answer]])
                more = {"adapter_names": [BASE if number is None else str(number)]}
                logits = self.model(input_ids=ids[:, :-1], use_cache=False, **more).logits[0, len(prompt) - 1 :].float()
                own = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
                found.append(float((logits.max(dim=-1).values - own).max()))
        return found
