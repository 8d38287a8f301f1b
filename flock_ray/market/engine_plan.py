"""What an engine process is started with: plain values, which cross processes before anything slow is imported."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from flock_ray.errors import AdapterError, ModelError
from flock_ray.market.models import Model
from flock_ray.serving.engine import Engine
from flock_ray.serving.request import Limits

ECHO = "echo"


@dataclass(frozen=True)
class EnginePlan:
    """An engine.

    Attributes:
        kind: `batching`, or `echo` for one without a model.
        source, path, revision, dtype: of the base model, as in `training.model.ModelSpec`.
        device: `cpu` or `cuda`.
        threads: of torch.
        base, tokenizer: hashes of the base model's weights, and of its tokenizer and chat template.
        rows, adapter_slots, context_length, max_rank, step_tokens, waiting: see `serving.batching_engine.Options`.
        template_date: that the adapters' chat template was rendered with.
        gather: seconds that events are gathered before they are handed on together.
    """

    kind: str
    source: str
    path: str
    revision: str
    dtype: str
    device: str
    threads: int
    base: bytes
    tokenizer: bytes
    rows: int
    adapter_slots: int
    context_length: int
    max_rank: int
    step_tokens: int
    waiting: int
    template_date: date
    gather: float

    def check(self, model: Model) -> None:
        """Check that a model was trained on what this engine answers with.

        Raises:
            AdapterError: on another base model or tokenizer, or with another template date.
        """
        for what, own, other in (
            ("base model", self.base, model.base), ("tokenizer", self.tokenizer, model.tokenizer),
            ("template date", self.template_date, model.template_date),
        ):  # fmt: skip
            if self.kind != ECHO and own != other:
                raise AdapterError(f"{model.id} has another {what} than this deployment: serve it from one of its own")

    def start(self) -> Engine:
        """Load the base model and start; slow.

        Raises:
            ConfigError: the options do not fit the model.
            ModelError: it does not load here, is of a kind that is not served, or has other weights than elsewhere.
        """
        if self.kind == ECHO:
            from flock_ray.serving.echo_engine import VOCABULARY, EchoEngine

            return EchoEngine(Limits(self.context_length, VOCABULARY, self.rows, self.waiting))
        import torch

        from flock_ray.serving.batching_engine import BatchingEngine, Options
        from flock_ray.training.model import ModelSpec, load_base

        torch.set_num_threads(self.threads)
        base = load_base(ModelSpec(self.source, self.path, self.revision, self.dtype, self.device))
        if base.hashes.weights != self.base:
            raise ModelError(
                f"the base model in {base.folder} has other weights on this machine than where it is served"
            )
        options = Options(
            rows=self.rows, context_length=self.context_length, adapter_slots=self.adapter_slots,
            max_rank=self.max_rank, step_tokens=self.step_tokens, waiting=self.waiting,
        )  # fmt: skip
        return BatchingEngine(base, options, self.template_date)
