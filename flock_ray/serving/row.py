"""An answer in the making: from its request to its last event."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from flock_ray.serving.adapters import AdapterSource
from flock_ray.serving.detokenizer import Decode, Detokenizer, StopStrings
from flock_ray.serving.request import Request
from flock_ray.serving.sampling import Sampler, Scores, score
from flock_ray.serving.stream import Event, Finished, FinishReason, Logprobs, Stream, Token, TopToken


@dataclass(frozen=True)
class Text:
    """How tokens are written.

    Attributes:
        decode: tokens to text, without special ones.
        ends: tokens with which the model ends an answer.
    """

    decode: Decode
    ends: frozenset[int]


@dataclass
class Row:
    """An answer in the making; the engine's loop owns it.

    Attributes:
        request: what is asked.
        stream: where events go; dead once the client dropped it.
        text: how tokens are written.
        length: most tokens of the answer.
        source: of the adapter.
        slot: of the cache, -1 before it has one.
        adapter: slot of the adapter.
        cached: tokens of the prompt that were not computed anew.
        computed: tokens whose keys and values are in the cache.
        made: tokens of the answer.
        finished: whether its last event was handed on.
        failed: whether that was an error.
    """

    request: Request
    stream: weakref.ref[Stream]
    text: Text
    length: int
    source: AdapterSource | None = None
    slot: int = -1
    adapter: int = 0
    cached: int = 0
    computed: int = 0
    made: list[int] = field(default_factory=list)
    finished: bool = False
    failed: bool = False

    def __post_init__(self) -> None:
        self._sampler = Sampler(self.request.sampling)
        self._detokenizer = Detokenizer(self.text.decode)
        self._stops = StopStrings(self.request.stop)
        self._echoed = Detokenizer(self.text.decode)
        self._told = 0
        self._carried: Logprobs | None = None  # of the next chunk's first token, from the last logits of this one

    @property
    def abandoned(self) -> bool:
        """Whether nobody wants the answer any more."""
        stream = self.stream()
        return stream is None or stream.cancelled

    @property
    def model(self) -> bytes:
        """What answers: the adapter's hash with its scaling, which is not in the hash; empty for the base model."""
        if self.request.adapter is None or self.source is None:
            return b""
        return self.request.adapter + self.source.scaling.hex().encode()

    @property
    def scores_prompt(self) -> bool:
        """Whether log probabilities of the prompt are wanted: then nothing of it may be left out."""
        return self.request.echo and self.request.logprobs is not None

    def next_tokens(self, most: int) -> tuple[int, ...]:
        """What comes into the next step, at most so many tokens."""
        prompt = self.request.prompt
        if self.computed < len(prompt):
            return prompt[self.computed : self.computed + most]
        return (self.made[-1],)

    def num_logits(self, tokens: int) -> int:
        """For how many of the last of so many next tokens logits are wanted."""
        end = self.computed + tokens
        if end < len(self.request.prompt):
            return tokens if self.scores_prompt else 0
        return tokens if self.scores_prompt and self.computed < len(self.request.prompt) else 1

    def take(self, tokens: Sequence[int], logits: torch.Tensor) -> None:
        """The step's outcome: `tokens` are computed, `logits` [num_logits, vocabulary] are of the last of them."""
        begin, prompt = self.computed, self.request.prompt
        self.computed += len(tokens)
        if not bool(torch.isfinite(logits).all()):
            return self.end(FinishReason.ERROR, "the model's output is not finite under this adapter")
        if self.request.echo and begin < len(prompt):
            self._echo(begin, logits)
        if self.computed < len(prompt):
            return
        if not self.length:
            self.end(FinishReason.LENGTH)
        else:
            self._make(logits[-1])

    def _make(self, logits: torch.Tensor) -> None:
        token = self._sampler.choose(logits)
        if token in self.text.ends and not self.request.ignore_end:
            return self.end(FinishReason.STOP, text=self._rest())
        self.made.append(token)
        shown = self._stops.push(self._detokenizer.push(token))
        self._put(Token(token, shown, self._logprobs(logits[None], [token])[0]))
        if self._stops.stopped:
            self.end(FinishReason.STOP)
        elif len(self.made) >= self.length:
            rest = self._rest()
            self.end(FinishReason.STOP if self._stops.stopped else FinishReason.LENGTH, text=rest)

    def _rest(self) -> str:
        """What was held back."""
        return self._stops.push(self._detokenizer.flush()) + self._stops.flush()

    def _echo(self, begin: int, logits: torch.Tensor) -> None:
        """Hand on the tokens of the prompt that this step computed, or left out; `begin` is its first."""
        prompt = self.request.prompt
        if not self.scores_prompt:
            begin = self._told
        places = range(begin, min(self.computed, len(prompt)))
        known: list[Logprobs | None] = [None] * len(places)
        if self.scores_prompt:
            following = self._logprobs(logits[: len(places)], [*prompt[begin + 1 : self.computed + 1]][: len(places)])
            first = self._carried if begin else Logprobs(self.text.decode([prompt[0]]), None)
            together = [first, *following]
            known, self._carried = list(together[: len(places)]), together[-1]
        for place, logprobs in zip(places, known, strict=True):
            shown = self._echoed.push(prompt[place])
            if place == len(prompt) - 1:
                shown += self._echoed.flush()
            self._put(Token(prompt[place], shown, logprobs, prompt=True))
        self._told = places.stop

    def _logprobs(self, logits: torch.Tensor, tokens: Sequence[int]) -> list[Logprobs | None]:
        """Log probabilities of tokens, at places [n, vocabulary] of which the first n - 1 or n tokens are told."""
        top = self.request.logprobs
        if top is None:
            return [None] * len(tokens)
        found = score(logits[: len(tokens)], torch.tensor(tokens, dtype=torch.long), top)
        return [self._written(token, one) for token, one in zip(tokens, found, strict=True)]

    def _written(self, token: int, found: Scores) -> Logprobs:
        decode = self.text.decode
        return Logprobs(decode([token]), found.logprob, tuple(TopToken(i, decode([i]), v) for i, v in found.top))

    def _put(self, event: Event) -> None:
        stream = self.stream()
        if stream is not None and not stream.ended:
            stream.put(event)

    def end(self, reason: FinishReason, error: str = "", text: str = "") -> None:
        """Hand on the last event; harmless if it was."""
        if not self.finished:
            self.finished, self.failed = True, reason is FinishReason.ERROR
            self._put(Finished(reason, len(self.request.prompt), self.cached, len(self.made), text, error))
