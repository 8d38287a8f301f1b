"""Losses of the metric `sql`: each adapter answers the questions greedily, and its queries are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from transformers import PreTrainedTokenizerBase

from flock_ray.lora.foreign import padded
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.contest_scores import MICRO
from flock_ray.training.contest import RowScorer
from flock_ray.training.contest_data import Question
from flock_ray.training.engine import Tick, no_tick
from flock_ray.training.generation import prompt_ids
from flock_ray.training.sql_metric import SqlMetric


def num_telling(questions: Sequence[Question]) -> int:
    """How many questions can tell wrong queries from the gold one, on the databases of a trial seed.

    On a day's own databases, whose seed nobody knows before, a few may differ.
    """
    metrics = _metrics(questions, questions, bytes(32))
    return sum(metrics[one.system].question(one.gold) is not None for one in questions)


def _metrics(questions: Sequence[Question], known: Sequence[Question], seed: bytes) -> dict[str, SqlMetric]:
    """The databases of each schema that `questions` are about, with the literals of `known` in them."""
    return {
        schema: SqlMetric(schema, [one.gold for one in known if one.system == schema], seed)
        for schema in dict.fromkeys(one.system for one in questions)
    }


class SqlScorer:
    """Judges generated queries; a question that cannot tell wrong answers on the day's databases costs nobody."""

    def __init__(self, scorer: RowScorer, tokenizer: PreTrainedTokenizerBase, max_tokens: int, today: date) -> None:
        """Answer with the scorer's engine.

        Args:
            scorer: with the resident base model.
            tokenizer: of the base model.
            max_tokens: longest answer.
            today: what a chat template is told that asks for the date.
        """
        self._scorer, self._tokenizer, self._max_tokens, self._today = scorer, tokenizer, max_tokens, today

    def losses(
        self,
        adapters: Mapping[bytes, Adapter],
        questions: Sequence[Question],
        known: Sequence[Question],
        seed: bytes,
        tick: Tick = no_tick,
    ) -> dict[bytes, tuple[int, ...]]:
        """{payload: for each question 0 if its answer is right, else 10^6}.

        Args:
            adapters: {payload: adapter}.
            questions: at least one of `known`.
            known: all questions of the day's chunk or of set B: their literals are in the databases.
            seed: of the databases, 32 bytes.
            tick: called once per adapter.
        """
        metrics = _metrics(questions, known, seed)
        judged = [metrics[one.system].question(one.gold) for one in questions]
        turns = [
            [{"role": "system", "content": one.system}, {"role": "user", "content": one.user}] for one in questions
        ]
        prompts = [prompt_ids(self._tokenizer, each, self._today) for each in turns]
        found = {}
        for payload, adapter in adapters.items():
            [answers] = self._scorer.engine.answers(
                [padded(adapter, self._scorer.rank)], self._tokenizer, prompts, self._max_tokens
            )
            found[payload] = tuple(
                0 if question is None or metrics[one.system].matches(question, answer) else MICRO
                for one, question, answer in zip(questions, judged, answers, strict=True)
            )
            tick()
        return found
