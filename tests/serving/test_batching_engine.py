"""Every answer is the one that its own adapter gives alone, whatever else the engine does at the time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from flock_ray.lora.serialization import canonical_bytes
from flock_ray.serving.batching_engine import BatchingEngine
from flock_ray.serving.request import Request, Sampling
from flock_ray.serving.stream import FinishReason, Stream
from flock_ray.training.generation import prompt_ids
from flock_ray.training.model import load_base
from tests.serving.players import (
    SMALL,
    TODAY,
    Oracle,
    adapter_of,
    engine_of,
    greedy,
    ids_of,
    loaded,
    prompts,
    source_of,
)
from tests.training.samples import tiny_spec

pytestmark = pytest.mark.model

MANY = 10
TOKENS = 12


@pytest.fixture(scope="module")
def engine(tiny_model_dir: Path) -> Iterator[BatchingEngine]:
    with engine_of(tiny_model_dir) as made:
        yield made


@pytest.fixture(scope="module")
def known(engine: BatchingEngine, tiny_model_dir: Path) -> list[bytes]:
    """Ten adapters, in an engine with four slots for them."""
    base = loaded(tiny_model_dir)
    return [engine.add_adapter(source_of(base, number)) for number in range(MANY)]


def test_every_answer_is_that_of_its_own_adapter(
    engine: BatchingEngine, known: list[bytes], tiny_model_dir: Path
) -> None:
    """Forty requests of five tenants over ten adapters and the base, at random moments: no answer of another."""
    oracles = {number: Oracle(tiny_model_dir, number) for number in (*range(MANY), None)}
    drawn = random.Random(5)
    asked = [(prompt, drawn.choice([*range(MANY), None])) for prompt in prompts(40, seed=3)]
    expected = [oracles[number].answer(prompt, TOKENS) for prompt, number in asked]
    assert len({tuple(answer) for answer in expected}) > 30, "adapters answer unlike each other"
    streams = []
    for at, (prompt, number) in enumerate(asked):
        adapter = None if number is None else known[number]
        streams.append(engine.submit(greedy(prompt, adapter, TOKENS, f"tenant {at % 5}")))
        if drawn.random() < 0.3:  # some come when others are half done
            next(streams[drawn.randrange(len(streams) // 2, len(streams))])
    answers = [engine_answer(stream) for stream in streams]
    errors = sum(answer != alone[-len(answer) :] for answer, alone in zip(answers, expected, strict=True))
    assert errors == 0


def engine_answer(stream: Stream) -> list[int]:
    """What is not read yet of an answer."""
    answer = stream.result()
    assert answer.finished.reason is FinishReason.LENGTH and answer.finished.completion_tokens == TOKENS
    return ids_of(answer.tokens)


def test_rows_of_one_step_have_as_many_adapters_as_there_are_slots(
    engine: BatchingEngine, known: list[bytes], tiny_model_dir: Path
) -> None:
    before = engine.stats().adapter_loads
    prompt = prompts(1, seed=9)[0]
    streams = [engine.submit(greedy(prompt, adapter, 4)) for adapter in (*known, *known)]
    answers = [ids_of(stream) for stream in streams]
    assert answers[:MANY] == answers[MANY:]
    assert answers[3] == Oracle(tiny_model_dir, 3).answer(prompt, 4)
    assert engine.stats().adapter_loads >= before + MANY - SMALL.adapter_slots


def test_an_adapter_that_leaves_layers_out_adds_nothing_there(engine: BatchingEngine, tiny_model_dir: Path) -> None:
    targets = ("q_proj", "layers.1.mlp.down_proj")
    partial = engine.add_adapter(source_of(loaded(tiny_model_dir), 2, targets))
    prompt = prompts(1, seed=4)[0]
    assert ids_of(engine.submit(greedy(prompt, partial))) == Oracle(tiny_model_dir, 2, targets).answer(prompt, 12)


def test_a_prompt_that_begins_as_an_earlier_one_is_not_computed_anew_nor_answered_otherwise(
    engine: BatchingEngine, known: list[bytes], tiny_model_dir: Path
) -> None:
    start = prompts(1, seed=11, shortest=50, longest=50)[0]
    oracle = Oracle(tiny_model_dir, 1)
    first = engine.submit(greedy(start, known[1], tenant="prefix")).result()
    for more in ((7, 8), (9,), (9, 10, 11)):
        again = engine.submit(greedy((*start, *more), known[1], tenant="prefix")).result()
        assert again.finished.cached_tokens >= 49
        assert ids_of(again.tokens) == oracle.answer((*start, *more), 12)
    together = [engine.submit(greedy((*start, more), known[1], tenant="prefix")) for more in (20, 21, 22)]
    for more, stream in zip((20, 21, 22), together, strict=True):
        assert ids_of(stream) == oracle.answer((*start, more), 12), "also while the slot that has it is in use"
    for tenant, adapter in (("other", known[1]), ("prefix", known[2]), ("prefix", None)):
        other = engine.submit(greedy(start, adapter, tenant=tenant)).result()
        assert other.finished.cached_tokens == 0, "neither another tenant's nor another adapter's"
    assert first.finished.prompt_tokens == 50 and first.finished.cached_tokens == 0


def test_a_seeded_answer_does_not_depend_on_its_neighbours(engine: BatchingEngine, known: list[bytes]) -> None:
    """The odds differ by rounding only: log probabilities by less than 1e-4."""
    how = Sampling(temperature=1.3, top_p=0.95, top_k=200, seed=12)
    asked = Request(prompts(1, seed=6)[0], known[4], max_tokens=20, sampling=how, ignore_end=True, logprobs=0)
    alone = engine.submit(asked).result()
    others = [engine.submit(replace(asked, prompt=prompt, sampling=replace(how, seed=None))) for prompt in prompts(9)]
    crowded = engine.submit(replace(asked, tenant="b")).result()
    for stream in others:
        stream.result()
    assert ids_of(alone.tokens) == ids_of(crowded.tokens)
    for one, other in zip(alone.tokens, crowded.tokens, strict=True):
        assert one.logprobs and other.logprobs
        assert one.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-4)
    assert ids_of(engine.submit(replace(asked, sampling=replace(how, seed=13)))) != ids_of(alone.tokens)


def test_log_probabilities_are_those_of_the_model_for_the_prompt_too(
    engine: BatchingEngine, known: list[bytes], tiny_model_dir: Path
) -> None:
    """A prompt of several chunks, as evaluation harnesses score it."""
    prompt = prompts(1, seed=8, shortest=70, longest=70)[0]
    asked = Request(prompt, known[5], max_tokens=3, logprobs=4, echo=True, ignore_end=True, tenant="e")
    answer = engine.submit(asked).result()
    ids = [token.id for token in answer.tokens]
    assert ids[:70] == list(prompt) and len(ids) == 73
    assert [token.prompt for token in answer.tokens] == [True] * 70 + [False] * 3
    logs = Oracle(tiny_model_dir, 5).logprobs(ids)
    first, *rest = answer.tokens
    assert first.logprobs and first.logprobs.logprob is None
    for place, token in enumerate(rest):
        assert token.logprobs and token.logprobs.logprob is not None
        assert token.logprobs.logprob == pytest.approx(float(logs[place, token.id]), abs=1e-4)
        likeliest = logs[place].topk(4)
        assert [one.id for one in token.logprobs.top] == likeliest.indices.tolist()
        assert [one.logprob for one in token.logprobs.top] == pytest.approx(likeliest.values.tolist(), abs=1e-4)
    scored = engine.submit(replace(asked, max_tokens=0)).result()
    assert [token.id for token in scored.tokens] == list(prompt)
    assert scored.finished.reason is FinishReason.LENGTH and scored.finished.completion_tokens == 0
    assert scored.finished.cached_tokens == 0 and scored.text == ""


def test_an_echo_is_the_prompts_text(engine: BatchingEngine) -> None:
    prompt = engine.encode("def f(x):\n    return '한국'")
    for _ in range(2):  # the second time most of it is in the cache
        answer = engine.submit(Request(prompt, max_tokens=2, echo=True, tenant="echo", ignore_end=True)).result()
        assert "".join(token.text for token in answer.tokens if token.prompt) == "def f(x):\n    return '한국'"


def test_an_answer_ends_at_a_stop_string_and_tells_nothing_of_it(engine: BatchingEngine, known: list[bytes]) -> None:
    prompt = prompts(1, seed=21)[0]
    whole = engine.submit(greedy(prompt, known[6], 20, "stop")).result()
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    found = engine.submit(replace(greedy(prompt, known[6], 20, "stop"), stop=("never", stop))).result()
    assert found.finished.reason is FinishReason.STOP
    assert found.text == whole.text[: whole.text.index(stop)]
    assert found.finished.completion_tokens <= 20


def test_the_models_own_end_is_no_token_of_the_answer(engine: BatchingEngine, tiny_model_dir: Path) -> None:
    base = loaded(tiny_model_dir)
    adapter = adapter_of(base, 1)
    prompt, end = prompts(1, seed=2)[0], base.tokenizer.eos_token_id
    answer = engine.submit(Request(prompt, max_tokens=40, sampling=Sampling(5.0, seed=3))).result()
    assert end not in ids_of(answer.tokens) and adapter
    assert answer.finished.reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert answer.finished.completion_tokens == len(answer.tokens)
    ended = next(
        found for seed in range(400)
        if (found := engine.submit(Request(prompt, max_tokens=40, sampling=Sampling(9.0, seed=seed))).result())
        .finished.reason is FinishReason.STOP
    )  # fmt: skip
    assert end not in ids_of(ended.tokens) and ended.finished.completion_tokens < 40


def test_a_conversation_is_rendered_as_in_training_and_begins_once(tiny_model_dir: Path) -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "import json"}]
    base = loaded(tiny_model_dir)
    trained = prompt_ids(base.tokenizer, turns, TODAY)[0].tolist()
    begin = base.tokenizer.bos_token
    with engine_of(tiny_model_dir) as engine:
        assert list(engine.render(turns)) == trained
    base.tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, base.tokenizer.bos_token_id)]
    )
    with BatchingEngine(base, SMALL, TODAY) as engine:
        assert list(engine.render(turns)) == trained, "the template writes the only beginning"
        plain = engine.encode("import json")
        assert plain[0] == base.tokenizer.bos_token_id and plain.count(base.tokenizer.bos_token_id) == 1
        assert engine.encode(f"{begin}import json") == plain


def test_the_example_of_the_documentation_runs(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(canonical_bytes(adapter_of(loaded(tiny_model_dir), 1)))
    for theirs, ours in (
        ('"packaged", "", "main", "auto"', f'"folder", "{tiny_model_dir}", "main", "float32"'),
        ("outputs/latest/adapter/adapter_model.safetensors", str(file)),
        ("Options(rows=8)", "Options(rows=2, context_length=128)"),
    ):
        assert code.count(theirs) == 1
        code = code.replace(theirs, ours)
    exec(code, {})
    assert len(capsys.readouterr().out) > 10


def test_in_bfloat16_only_rounding_is_larger(tiny_model_dir: Path) -> None:
    prompt = prompts(1, seed=8, shortest=70, longest=70)[0]
    base = load_base(tiny_spec(tiny_model_dir, "bfloat16"))
    with BatchingEngine(base, SMALL, TODAY) as engine:
        adapter = engine.add_adapter(source_of(loaded(tiny_model_dir), 5))
        asked = Request(prompt, adapter, max_tokens=8, logprobs=0, echo=True, ignore_end=True)
        answer = engine.submit(asked).result()
    logs = Oracle(tiny_model_dir, 5).logprobs([token.id for token in answer.tokens])
    for place, token in enumerate(answer.tokens[1:]):
        assert token.logprobs and token.logprobs.logprob == pytest.approx(float(logs[place, token.id]), abs=0.2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_answers_as_a_cpu_does(tiny_model_dir: Path, dtype: str) -> None:
    base = load_base(replace(tiny_spec(tiny_model_dir, dtype), device="cuda"))
    tolerance = 1e-3 if dtype == "float32" else 0.2
    with BatchingEngine(base, SMALL, TODAY) as engine:
        known = [engine.add_adapter(source_of(loaded(tiny_model_dir), number)) for number in range(6)]
        asked = [replace(greedy(prompt, known[at % 6]), logprobs=0) for at, prompt in enumerate(prompts(18, seed=3))]
        answers = [stream.result() for stream in [engine.submit(one) for one in asked]]
    for at, (request, answer) in enumerate(zip(asked, answers, strict=True)):
        logs = Oracle(tiny_model_dir, at % 6).logprobs([*request.prompt, *ids_of(answer.tokens)])
        for place, token in enumerate(answer.tokens, start=len(request.prompt) - 1):
            assert token.logprobs and token.logprobs.logprob == pytest.approx(
                float(logs[place, token.id]), abs=tolerance
            )
