"""Clients that go away, wait, or ask for what cannot be; adapters and rows that fail; the end."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flock_ray.errors import AdapterError, BusyError, ConfigError, ModelError, RequestError, UnknownAdapterError
from flock_ray.lora.serialization import Adapter, canonical_bytes
from flock_ray.serving.adapters import InFile, InMemory
from flock_ray.serving.batching_engine import BatchingEngine
from flock_ray.serving.kv_cache import Chunk
from flock_ray.serving.request import Request, Sampling
from flock_ray.serving.row import Row
from flock_ray.serving.stream import Event, Finished, FinishReason, Stream
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
from tests.waiting import PATIENCE

pytestmark = pytest.mark.model

PROMPT = prompts(1, seed=1)[0]


class Gate:
    """Lets an engine take one step at a time, and keeps what each computed."""

    def __init__(self, engine: BatchingEngine) -> None:
        self.steps: list[list[Chunk]] = []
        self._allowed, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._open = False
        self._step = engine._decoder.step
        engine._decoder.step = self  # type: ignore[method-assign]

    def __call__(self, chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        self._arrived.release()
        if not self._open:
            assert self._allowed.acquire(timeout=PATIENCE)
        self.steps.append(list(chunks))
        return self._step(chunks)

    def wait(self) -> None:
        """Until the engine is about to take the next step, whose rows are chosen."""
        assert self._arrived.acquire(timeout=PATIENCE)

    def one(self) -> None:
        """Let it take the step that it is about to take, and wait for the one after."""
        self._allowed.release()
        self.wait()

    def open(self) -> None:
        """Hold it up no more."""
        self._open = True
        self._allowed.release()


@pytest.fixture
def engine(tiny_model_dir: Path) -> Iterator[BatchingEngine]:
    with engine_of(tiny_model_dir) as made:
        yield made


def last(stream: Stream) -> Finished:
    *_, event = stream
    assert isinstance(event, Finished)
    return event


def test_a_client_that_goes_away_stops_its_row_within_a_step_and_nobody_elses(
    engine: BatchingEngine, tiny_model_dir: Path
) -> None:
    gate = Gate(engine)
    staying, leaving = (engine.submit(greedy(PROMPT, None, 30, tenant)) for tenant in "ab")
    with engine.submit(greedy(PROMPT, None, 30, "c")) as context:
        dropped = engine.submit(greedy(PROMPT, None, 30, "d"))
        gate.wait()
        while len({chunk.slot for chunk in gate.steps[-1]} if gate.steps else ()) < 4:
            gate.one()
        leaving.cancel()
        del dropped
        gc.collect()
    gate.one()  # its rows were chosen before
    gate.one()
    assert len(gate.steps[-1]) == 1, "three rows went, by a call, by the end of a block, by being dropped"
    gate.open()
    assert last(leaving).reason is last(context).reason is FinishReason.CANCELLED
    assert ids_of(staying) == Oracle(tiny_model_dir, None).answer(PROMPT, 30)


def test_who_waits_and_goes_away_is_never_computed(tiny_model_dir: Path) -> None:
    with engine_of(tiny_model_dir, replace(SMALL, rows=1, waiting=2)) as engine:
        gate = Gate(engine)
        running = engine.submit(greedy(PROMPT, None, 3))
        gate.wait()
        waiting = [engine.submit(greedy(prompt, None, 3)) for prompt in prompts(2, seed=7)]
        with pytest.raises(BusyError, match="2 requests wait already, as many as may; try again later"):
            engine.submit(greedy(PROMPT, None, 3))
        assert (engine.stats().running, engine.stats().waiting) == (1, 2)
        waiting[0].cancel()
        gate.open()
        assert last(waiting[0]) == Finished(FinishReason.CANCELLED, len(prompts(2, seed=7)[0]), 0, 0)
        assert last(running).reason is last(waiting[1]).reason is FinishReason.LENGTH
        assert engine.submit(greedy(PROMPT, None, 3)).result().finished.completion_tokens == 3, "there is room again"


def test_a_slow_reader_holds_nobody_up(engine: BatchingEngine) -> None:
    slow = engine.submit(greedy(PROMPT, None, 40))
    next(slow)
    for tenant in "bcd":
        assert last(engine.submit(greedy(PROMPT, None, 40, tenant))).completion_tokens == 40
    assert last(slow).completion_tokens == 40


def test_a_long_prompt_is_taken_in_parts_between_which_others_go_on(engine: BatchingEngine) -> None:
    gate = Gate(engine)
    talking = engine.submit(greedy(PROMPT, None, 30, "a"))
    gate.wait()
    while not gate.steps or len(gate.steps[-1][0].tokens) > 1:
        gate.one()
    long = engine.submit(greedy(prompts(1, seed=2, shortest=100, longest=100)[0], None, 2, "b"))
    gate.open()
    last(long), last(talking)
    both = [step for step in gate.steps if len(step) == 2]
    assert len(both) >= 100 // SMALL.step_tokens
    for step in both:
        assert sorted(len(chunk.tokens) for chunk in step)[0] == 1
        assert sum(len(chunk.tokens) for chunk in step) <= SMALL.step_tokens


def test_tenants_with_few_requests_are_not_behind_all_of_one_with_many(tiny_model_dir: Path) -> None:
    with engine_of(tiny_model_dir, replace(SMALL, rows=2)) as engine:
        gate = Gate(engine)
        many = [engine.submit(greedy(PROMPT, None, 8, "many")) for _ in range(12)]
        few = engine.submit(greedy(PROMPT, None, 8, "few"))
        gate.wait()
        gate.open()
        last(few)
        assert sum(not stream.ended for stream in many) >= 6
        for stream in many:
            last(stream)


def test_what_is_asked_wrongly_is_refused_in_a_line(engine: BatchingEngine) -> None:
    fine = Request(PROMPT, max_tokens=5)
    wrong = {
        "the prompt is empty; it must have at least one token": replace(fine, prompt=()),
        "the prompt has a token id that the model has not; ids are from 0 to 511": replace(fine, prompt=(3, 512)),
        f"the prompt has {len(PROMPT)} tokens, and with max_tokens = 1000000 more than the 192 that this engine takes":
            replace(fine, max_tokens=10**6),
        "the prompt has 192 tokens, and with an answer more than the 192 that this engine takes":
            replace(fine, prompt=(5,) * 192, max_tokens=None),
        "max_tokens is 0; it must be at least 1": replace(fine, max_tokens=0),
        "temperature is nan; it must be 0, or from 0.01 to 10": replace(fine, sampling=Sampling(float("nan"))),
        "temperature is 0.001; it must be 0, or from 0.01 to 10": replace(fine, sampling=Sampling(0.001)),
        "top_p is 0; it must be above 0 and at most 1": replace(fine, sampling=Sampling(1.0, top_p=0)),
        "top_k is -1; it must be 0 (all tokens) or more": replace(fine, sampling=Sampling(1.0, top_k=-1)),
        "logprobs is 21; it must be from 0 to 20": replace(fine, logprobs=21),
        "stop must be at most 16 strings of 1 to 256 characters": replace(fine, stop=("",)),
    }  # fmt: skip
    for line, request in wrong.items():
        with pytest.raises(RequestError) as caught:
            engine.submit(request)
        assert str(caught.value) == line
    with pytest.raises(UnknownAdapterError, match=f"no adapter 0x{'07' * 32} is served here; add it first"):
        engine.submit(replace(fine, adapter=b"\x07" * 32))
    assert engine.submit(replace(fine, prompt=(5,) * 190, max_tokens=None)).result().finished.completion_tokens == 2


def test_adapters_that_are_of_no_use_here_are_refused(engine: BatchingEngine, tiny_model_dir: Path) -> None:
    adapter = adapter_of(loaded(tiny_model_dir), 0)
    a, b = (next(key for key in adapter if key.endswith(f"lora_{one}.weight")) for one in "AB")
    larger = {a: torch.ones(20, adapter[a].shape[1]), b: torch.ones(adapter[b].shape[0], 20)}
    elsewhere = {key.replace("layers", "blocks"): factor for key, factor in adapter.items()}
    for line, broken in (
        ("no factors: it would answer as the base model", {}),
        ("which is no factor of this model's layers", elsewhere),
        (f"holds {a} without {b}", {a: adapter[a]}),
        ("is of another base model", {**adapter, a: torch.ones(2, 65)}),
        ("has rank 20; both factors must have one from 1 to 8", larger),
        ("must be float32 and finite", {**adapter, a: adapter[a] / 0}),
        ("must be float32 and finite", {**adapter, a: adapter[a].half()}),
    ):  # fmt: skip
        with pytest.raises(AdapterError) as caught:
            engine.add_adapter(InMemory(broken, 2.0))
        assert line in str(caught.value)
    with pytest.raises(AdapterError, match="scaling"):
        engine.add_adapter(InMemory(adapter, 0.0))
    digest = engine.add_adapter(InMemory(adapter, 2.0))
    assert engine.add_adapter(InMemory(adapter, 2.0)) == digest
    with pytest.raises(AdapterError, match="is served with the scaling 2, not 1; discard it first"):
        engine.add_adapter(InMemory(adapter, 1.0))
    engine.discard_adapter(digest)
    with pytest.raises(UnknownAdapterError):
        engine.submit(greedy(PROMPT, digest))


def test_the_same_factors_with_another_scaling_are_another_model(engine: BatchingEngine, tiny_model_dir: Path) -> None:
    adapter = adapter_of(loaded(tiny_model_dir), 0)
    digest = engine.add_adapter(InMemory(adapter, 2.0))
    before = engine.submit(greedy(PROMPT, digest)).result()
    engine.discard_adapter(digest)
    assert engine.add_adapter(InMemory(adapter, 0.5)) == digest
    after = engine.submit(greedy(PROMPT, digest)).result()
    assert after.finished.cached_tokens == 0, "neither its slot nor its cached prompts"
    folded = {key: factor / 4 if "lora_B" in key else factor for key, factor in adapter.items()}
    alone = engine.submit(greedy(PROMPT, engine.add_adapter(InMemory(folded, 2.0)))).result()
    assert ids_of(after.tokens) == ids_of(alone.tokens) != ids_of(before.tokens)


def test_a_file_that_changed_answers_no_more_and_the_new_one_uses_nothing_of_the_old(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The adapter of a name is replaced while it is served: requests name hashes, so both are told apart."""
    base, path = loaded(tiny_model_dir), tmp_path / "adapter_model.safetensors"
    scaling = source_of(base, 1).scaling
    path.write_bytes(canonical_bytes(adapter_of(base, 1)))
    with engine_of(tiny_model_dir, replace(SMALL, rows=1, adapter_slots=1)) as engine:
        old = engine.add_adapter(InFile(path, scaling))
        before = engine.submit(greedy(PROMPT, old)).result()
        path.write_bytes(canonical_bytes(adapter_of(base, 5)))
        assert source_of(base, 5).scaling != scaling
        new = engine.add_adapter(InFile(path, source_of(base, 5).scaling))
        after = engine.submit(greedy(PROMPT, new)).result()
        assert after.finished.cached_tokens == 0
        assert ids_of(before.tokens) == Oracle(tiny_model_dir, 1).answer(PROMPT, 12)
        assert ids_of(after.tokens) == Oracle(tiny_model_dir, 5).answer(PROMPT, 12)
        failed = engine.submit(greedy(PROMPT, old)).result().finished  # it is read anew, as its slot is another's
        assert failed.reason is FinishReason.ERROR and "has another hash; add it anew" in failed.error
        path.unlink()
        assert engine.submit(greedy(PROMPT, None)).result().finished.reason is FinishReason.LENGTH
        gone = engine.submit(greedy(PROMPT, old)).result().finished
        assert gone.reason is FinishReason.ERROR and "does not read" in gone.error
        path.write_bytes(canonical_bytes(adapter_of(base, 1)))
        assert ids_of(engine.submit(greedy(PROMPT, old)).result().tokens) == ids_of(before.tokens), "back again"


class Slow:
    """An adapter whose second reading takes until `go`."""

    def __init__(self, source: InMemory) -> None:
        self.scaling, self._adapter = source.scaling, source.adapter
        self.go, self._readings = threading.Event(), 0

    def read(self) -> Adapter:
        self._readings += 1
        assert self._readings == 1 or self.go.wait(PATIENCE)
        return self._adapter


def test_an_adapter_that_loads_slowly_holds_nobody_up_and_comes_into_nobodys_slot(tiny_model_dir: Path) -> None:
    base = loaded(tiny_model_dir)
    slow = Slow(source_of(base, 1))
    with engine_of(tiny_model_dir, replace(SMALL, rows=2, adapter_slots=2)) as engine:
        first, *known = (engine.add_adapter(source) for source in (slow, *(source_of(base, n) for n in (2, 3, 4))))
        loading = engine.submit(greedy(PROMPT, first))
        assert ids_of(engine.submit(greedy(PROMPT, known[0]))) == Oracle(tiny_model_dir, 2).answer(PROMPT, 12)
        assert ids_of(engine.submit(greedy(PROMPT, None))) == Oracle(tiny_model_dir, None).answer(PROMPT, 12)
        loading.cancel()
        assert last(loading).reason is FinishReason.CANCELLED
        same, other = (engine.submit(greedy(PROMPT, adapter)) for adapter in known[1:])
        assert ids_of(other) == Oracle(tiny_model_dir, 4).answer(PROMPT, 12)
        assert not same.ended, "its slot is the one that the slow adapter is still loaded into"
        slow.go.set()
        assert ids_of(same) == Oracle(tiny_model_dir, 3).answer(PROMPT, 12)
        assert ids_of(engine.submit(greedy(PROMPT, first))) == Oracle(tiny_model_dir, 1).answer(PROMPT, 12)


def test_a_row_that_fails_takes_nobody_with_it(
    engine: BatchingEngine, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = loaded(tiny_model_dir)
    huge = {key: torch.full_like(factor, 3e37) for key, factor in adapter_of(base, 0).items()}
    overflowing = engine.add_adapter(InMemory(huge, 1.0))
    take = Row.take

    def sometimes(row: Row, tokens: Sequence[int], logits: torch.Tensor) -> None:
        if row.request.tenant == "broken":
            raise RuntimeError("words of the prompt")
        take(row, tokens, logits)

    monkeypatch.setattr(Row, "take", sometimes)
    good = [engine.submit(greedy(PROMPT, None, 20)) for _ in range(2)]
    bad = engine.submit(greedy(PROMPT, overflowing, 20))
    broken = engine.submit(greedy(PROMPT, None, 20, "broken"))
    assert last(bad) == Finished(
        FinishReason.ERROR, len(PROMPT), 0, 0, "", "the model's output is not finite under this adapter"
    )
    assert last(broken).error == "the engine failed: RuntimeError", "and nothing that might be of a prompt"
    monkeypatch.undo()
    assert last(engine.submit(greedy(PROMPT, None, 2, "broken"))).cached_tokens == 0, "what failed is not relied on"
    alone = Oracle(tiny_model_dir, None).answer(PROMPT, 20)
    assert [ids_of(stream) for stream in good] == [alone, alone]
    again = [engine.submit(greedy(PROMPT, None, 20, f"{number}")) for number in range(8)]
    assert [ids_of(stream) for stream in again] == [alone] * 8, "in the slots of those that failed, too"


def test_a_step_that_fails_ends_its_rows_and_the_engine_goes_on(engine: BatchingEngine, tiny_model_dir: Path) -> None:
    step, cache, fails = engine._decoder.step, engine._decoder.cache, [True]

    def once(chunks: Sequence[Chunk]) -> list[torch.Tensor]:
        if not fails:
            return step(chunks)
        fails.pop()
        [chunk] = chunks
        cache.values[0][chunk.slot, :, : len(chunk.tokens)] = torch.nan  # half done
        raise MemoryError

    engine._decoder.step = once  # type: ignore[method-assign]
    long = prompts(1, seed=2, shortest=SMALL.step_tokens, longest=SMALL.step_tokens)[0]
    assert last(engine.submit(greedy(long, None))).error == "the engine failed: MemoryError"
    short = PROMPT[:4]
    assert ids_of(engine.submit(greedy(short, None))) == Oracle(tiny_model_dir, None).answer(short, 12)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_engine_itself_leaves_nobody_waiting(engine: BatchingEngine) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    engine._decoder.cache.clear = broken  # type: ignore[method-assign]
    assert last(engine.submit(greedy(PROMPT, None))).reason is FinishReason.CANCELLED
    with pytest.raises(BusyError, match="the engine is closed"):
        engine.submit(greedy(PROMPT, None))


def test_closing_ends_every_answer_and_takes_no_more(tiny_model_dir: Path) -> None:
    engine = engine_of(tiny_model_dir, replace(SMALL, rows=2))
    streams = [engine.submit(greedy(PROMPT, None, 100)) for _ in range(5)]
    next(streams[0])
    engine.close()
    engine.close()
    assert all(last(stream).reason is FinishReason.CANCELLED for stream in streams)
    with pytest.raises(BusyError, match="the engine is closed"):
        engine.submit(greedy(PROMPT, None))
    assert not any(thread.name.startswith("flock_ray") for thread in threading.enumerate())


def test_answers_are_read_in_asyncio_and_a_cancelled_task_cancels_its_answer(engine: BatchingEngine) -> None:
    async def read(request: Request) -> list[Event]:
        return [event async for event in engine.submit(request)]

    async def cancelled(gate: Gate) -> Stream:
        stream = engine.submit(greedy(PROMPT, None, 100))
        task = asyncio.ensure_future(anext(stream))
        await asyncio.to_thread(gate.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        return stream

    async def together() -> list[list[Event]]:
        return await asyncio.gather(*(read(greedy(prompt, None, 7)) for prompt in prompts(6)))

    for events in asyncio.run(together()):
        assert len(ids_of(events)) == 7 and isinstance(events[-1], Finished)
    assert last(asyncio.run(cancelled(Gate(engine)))).reason is FinishReason.CANCELLED


def test_options_and_models_that_do_not_fit_are_refused(tiny_model_dir: Path) -> None:
    for line, options in (
        ("context_length is 513; it must be at most 512", replace(SMALL, context_length=513)),
        ("adapter_slots is 3; it must be at least rows = 4", replace(SMALL, adapter_slots=3)),
        ("step_tokens is 0; it must be at least 1", replace(SMALL, step_tokens=0)),
    ):
        with pytest.raises(ConfigError, match=line):
            engine_of(tiny_model_dir, options)
    base = loaded(tiny_model_dir)
    base.model.config.rope_parameters = {**base.model.config.rope_parameters, "rope_type": "dynamic"}
    with pytest.raises(ModelError, match="positions depend on the longest row of a batch"):
        BatchingEngine(base, SMALL, TODAY)
