"""The project's own engine: rows join and leave at every step (continuous batching: Yu et al. 2022, Orca)."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from flock_ray.errors import BusyError, ConfigError, FlockRayError
from flock_ray.lora.peft_io import ALL_LINEAR
from flock_ray.serving.adapters import AdapterSource, Library, read_checked
from flock_ray.serving.decoder import Decoder
from flock_ray.serving.engine import Engine, Stats
from flock_ray.serving.fair_queue import FairQueue
from flock_ray.serving.kv_cache import Chunk
from flock_ray.serving.prefixes import Prefixes
from flock_ray.serving.prompts import Prompter, reserved_texts, writing
from flock_ray.serving.request import Limits, Request, Tokens
from flock_ray.serving.residency import Residency
from flock_ray.serving.row import Row
from flock_ray.serving.schedule import shares
from flock_ray.serving.stream import FinishReason, Stream
from flock_ray.training.architecture import positions_of
from flock_ray.training.chat_template import Messages
from flock_ray.training.model import BaseModel

LOADERS = 4
"""Threads that load adapters, each another one, while the engine goes on."""
LEAST_PROMPT_TOKENS = 16
"""Of prompts in a step that decoding rows fill."""


@dataclass(frozen=True)
class Options:
    """How an engine is laid out.

    Attributes:
        rows: answers at the same time.
        context_length: tokens of a prompt and its answer together.
        adapter_slots: adapters in the model at the same time; at least `rows`.
        max_rank: largest rank of an adapter.
        target_modules: layers that adapters may have.
        step_tokens: tokens that a step computes; of a long prompt each step takes a part, so that others need not wait.
        waiting: requests that wait for a row; one more is refused.
    """

    rows: int = 32
    context_length: int = 1024
    adapter_slots: int = 32
    max_rank: int = 16
    target_modules: tuple[str, ...] = (ALL_LINEAR,)
    step_tokens: int = 256
    waiting: int = 256

    def check(self) -> None:
        """Refuse values that do not fit together.

        Raises:
            ConfigError: they do not.
        """
        for name in ("rows", "context_length", "max_rank", "step_tokens", "waiting"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.adapter_slots < self.rows:
            raise ConfigError(
                f"adapter_slots is {self.adapter_slots}; it must be at least rows = {self.rows}, so that each may"
                " answer with another adapter"
            )


class BatchingEngine(Engine):
    """Answers many requests at once over one base model, each with its own adapter; see `Engine`.

    One thread computes: each step decodes a token of every row and takes in parts of new prompts. What fails for one
    row ends that row only.
    """

    def __init__(self, base: BaseModel, options: Options, today: date) -> None:
        """Put slots and cache into the base model, in place, and start.

        Args:
            base: used by nobody else from now on.
            options: how the engine is laid out.
            today: what a chat template is told that asks for the date: that of the adapters' training.

        Raises:
            ConfigError: the options do not fit together, or the model has fewer positions.
            ModelError: the model is of a kind that is not served, or a target module does not exist.
        """
        options.check()
        positions = positions_of(base.model.config)
        if options.context_length > positions:
            raise ConfigError(
                f"context_length is {options.context_length}; it must be at most {int(positions)}, as many positions as"
                " the model has (max_position_embeddings)"
            )
        vocabulary = base.model.get_input_embeddings().num_embeddings
        self.limits = Limits(options.context_length, vocabulary, options.rows, options.waiting)
        self._text = writing(base.model, base.tokenizer)
        self._prompter = Prompter(base.tokenizer, today)
        self.reserved = reserved_texts(base.tokenizer)
        self._decoder = Decoder(
            base, options.target_modules, options.max_rank, options.adapter_slots, options.rows, options.context_length
        )
        self._library = Library(self._decoder.slots.shapes, options.max_rank)
        self._step_tokens = options.step_tokens
        self._changed = threading.Condition()  # guards the three below
        self._queue: FairQueue[Row] = FairQueue()
        self._closing = False
        self._stats = Stats()
        self._rows: list[Row] = []  # these four are the loop's
        self._prefixes = Prefixes(options.rows)
        self._residency = Residency(options.adapter_slots)
        self._loading: dict[int, Future[None]] = {}
        self._loaders = ThreadPoolExecutor(LOADERS, "flock_ray-adapters")
        self._thread = threading.Thread(target=self._loop, name="flock_ray-engine", daemon=True)
        self._thread.start()

    def render(self, messages: Messages, tools: Sequence[Any] = ()) -> Tokens:
        """See `Engine`."""
        return self._prompter.render(messages, tools)

    def encode(self, text: str) -> Tokens:
        """See `Engine`."""
        return self._prompter.encode(text)

    def add_adapter(self, source: AdapterSource) -> bytes:
        """See `Engine`."""
        return self._library.add(source)

    def discard_adapter(self, adapter: bytes) -> None:
        """See `Engine`."""
        self._library.discard(adapter)

    def submit(self, request: Request) -> Stream:
        """See `Engine`."""
        self.limits.check(request)
        source = None if request.adapter is None else self._library.require(request.adapter)
        stream = Stream(self._wake)
        row = Row(request, weakref.ref(stream), self._text, self.limits.answer_length(request), source)
        with self._changed:
            if self._closing:
                raise BusyError("the engine is closed; ask another one")
            if len(self._queue) >= self.limits.waiting:
                raise BusyError(f"{self.limits.waiting} requests wait already, as many as may; try again later")
            self._queue.push(request.tenant, row)
            self._changed.notify_all()
        return stream

    def stats(self) -> Stats:
        """See `Engine`."""
        with self._changed:
            return replace(self._stats, running=len(self._rows), waiting=len(self._queue))

    @property
    def closed(self) -> bool:
        """See `Engine`."""
        return self._closing

    def close(self) -> None:
        """See `Engine`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._loaders.shutdown(cancel_futures=True)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _loop(self) -> None:
        try:
            while self._wait():
                self._admit()
                self._advance([row for row in self._rows if not row.finished and self._ready(row)])
                self._let_go()
        finally:
            with self._changed:
                self._closing = True
                left = [*self._rows, *self._queue.take_out(lambda row: True)]
            for row in left:
                row.end(FinishReason.CANCELLED)

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._something_to_do())
            return not self._closing

    def _something_to_do(self) -> bool:
        if any(row.abandoned or self._loaded(row) for row in self._rows):
            return True
        return bool(self._queue) and self._prefixes.free > 0

    def _loaded(self, row: Row) -> bool:
        """Whether its adapter is in its slot, or failed to get there."""
        loading = self._loading.get(row.adapter)
        return loading is None or loading.done()

    def _ready(self, row: Row) -> bool:
        """The same, and a row whose adapter failed ends."""
        if not self._loaded(row):
            return False
        loading = self._loading.get(row.adapter)
        error = loading.exception() if loading else None
        if error is not None:
            row.end(FinishReason.ERROR, _told(error))
        return error is None

    def _admit(self) -> None:
        """Give rows to those who wait, and end what nobody wants."""
        with self._changed:
            dropped = self._queue.take_out(lambda row: row.abandoned)
            for row in dropped:
                self._queue.leave(row.request.tenant)
            admitted: list[Row] = []
            while self._queue and len(admitted) < self._prefixes.free:
                admitted.append(row := self._queue.pop())
                self._queue.charge(row.request.tenant, len(row.request.prompt))
            self._rows += admitted  # so that each has its end, whatever comes
        for row in dropped:
            row.end(FinishReason.CANCELLED)
        for row in self._rows:
            if row.abandoned:
                row.end(FinishReason.CANCELLED)
        for row in admitted:
            self._place(row)

    def _place(self, row: Row) -> None:
        """Find a slot of the cache and one of its adapter."""
        request = row.request
        place = self._prefixes.take((request.tenant, row.model), request.prompt, not row.scores_prompt)
        if place.source is not None:
            self._decoder.cache.copy(place.source, place.slot, place.kept)
        self._decoder.cache.clear(place.slot, place.kept, place.stale)
        row.slot, row.cached, row.computed = place.slot, place.kept, place.kept
        row.adapter, missing = self._residency.take(row.model)
        if missing and request.adapter is not None and row.source is not None:
            self._start_loading(row.adapter, request.adapter, row.source)
        with self._changed:
            self._stats = replace(
                self._stats,
                cached_tokens=self._stats.cached_tokens + place.kept,
                adapter_loads=self._stats.adapter_loads + missing,
            )

    def _start_loading(self, slot: int, adapter: bytes, source: AdapterSource) -> None:
        """Load an adapter into a slot, after what is still being loaded into it and nobody wants any more."""
        before, loading = self._loading.get(slot), Future[None]()
        self._loading[slot] = loading

        def begin(_: object) -> None:
            with suppress(RuntimeError):  # the engine was closed meanwhile
                self._loaders.submit(self._load, slot, adapter, source, loading)

        if before is None:
            begin(None)
        else:
            before.add_done_callback(begin)

    def _load(self, slot: int, adapter: bytes, source: AdapterSource, loading: Future[None]) -> None:
        """Copy an adapter into its slot, which no row uses yet; other rows go on."""
        try:
            self._decoder.slots.write(slot, read_checked(source, adapter), source.scaling)
            loading.set_result(None)
        except Exception as error:  # whatever a source raises: it is told to who waits for the adapter
            loading.set_exception(error)
        self._wake()

    def _advance(self, rows: Sequence[Row]) -> None:
        """One step of these rows."""
        if not rows:
            return
        left = [max(1, len(row.request.prompt) - row.computed) for row in rows]
        sizes = shares(left, self._step_tokens, LEAST_PROMPT_TOKENS)
        moving = [(row, row.next_tokens(size)) for row, size in zip(rows, sizes, strict=True) if size]
        chunks = [
            Chunk(row.slot, row.adapter, row.computed, tokens, row.num_logits(len(tokens))) for row, tokens in moving
        ]
        for row, tokens in moving:
            self._prefixes.extend(row.slot, tokens)  # also if the step fails: then they are to be cleared
        try:
            logits = self._decoder.step(chunks)
        except Exception as error:  # out of memory, say: these rows end, the engine goes on
            for row, _ in moving:
                row.end(FinishReason.ERROR, _told(error))
            return
        moved = []
        for (row, tokens), found in zip(moving, logits, strict=True):
            before = len(row.made)
            try:
                row.take(tokens, found)
            except Exception as error:  # of one row, whose neighbours go on
                row.end(FinishReason.ERROR, _told(error))
            moved.append((row, len(tokens), len(row.made) - before))
        self._count(moved)

    def _count(self, moved: Sequence[tuple[Row, int, int]]) -> None:
        """Charge tenants for the tokens that were made, and keep the statistics; moved: (row, computed, made)."""
        with self._changed:
            for row, _, made in moved:
                self._queue.charge(row.request.tenant, made)
            prompt = sum(tokens for row, tokens, _ in moved if row.computed <= len(row.request.prompt))
            self._stats = replace(
                self._stats,
                steps=self._stats.steps + 1,
                prompt_tokens=self._stats.prompt_tokens + prompt,
                completion_tokens=self._stats.completion_tokens + sum(made for *_, made in moved),
            )

    def _let_go(self) -> None:
        """Rows that ended leave their slots to others."""
        ended = [row for row in self._rows if row.finished]
        for row in ended:
            self._prefixes.release(row.slot)
            if row.failed:
                self._prefixes.forget(row.slot)
            self._residency.release(row.adapter)
            loading = self._loading.get(row.adapter)
            if loading is not None and loading.done() and loading.exception() is not None:
                self._residency.forget(row.adapter)
        with self._changed:
            self._rows = [row for row in self._rows if not row.finished]
            for row in ended:
                self._queue.leave(row.request.tenant)


def _told(error: BaseException) -> str:
    """One line for the client; of others' errors only the kind, since their text may hold anything."""
    return str(error) if isinstance(error, FlockRayError) else f"the engine failed: {type(error).__name__}"
