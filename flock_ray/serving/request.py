"""What is asked of an engine, and what an engine refuses before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from flock_ray.errors import RequestError

Tokens = tuple[int, ...]

LEAST_TEMPERATURE = 0.01
"""Below it the odds overflow, and the likeliest token is what one wants: 0."""
MOST_TOP_LOGPROBS = 20
MOST_STOP_STRINGS, LONGEST_STOP_STRING = 16, 256
MOST_TEMPERATURE = 10.0


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 for the likeliest token each time.
        top_p: share of the odds among which a token is drawn (nucleus sampling: Holtzman et al. 2020).
        top_k: how many of the likeliest tokens it is drawn among; 0 for all.
        seed: of what is drawn; None for another one each time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class Request:
    """One answer that somebody wants.

    Attributes:
        prompt: token ids, of `Engine.render` or `Engine.encode`.
        adapter: SHA-256 of the adapter that answers; None for the base model.
        max_tokens: most tokens of the answer; None for as many as the context has room for.
        tenant: whose request it is, an opaque name: tenants share the engine's time fairly, and never cached prompts.
        sampling: how tokens are chosen.
        stop: strings that end the answer, and are no part of it.
        ignore_end: whether to go on after the model's own end of an answer.
        logprobs: None for none, else how many of the likeliest tokens are told beside each token, 0 to 20.
        echo: whether the answer begins with the prompt, with its log probabilities if those are asked for.
    """

    prompt: Tokens
    adapter: bytes | None = None
    max_tokens: int | None = None
    tenant: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    ignore_end: bool = False
    logprobs: int | None = None
    echo: bool = False


@dataclass(frozen=True)
class Limits:
    """What an engine can do at most.

    Attributes:
        context_length: tokens of prompt and answer together.
        vocabulary: token ids are below it.
        rows: answers at the same time.
        waiting: requests that wait for one of those to end; one more is refused.
    """

    context_length: int
    vocabulary: int
    rows: int
    waiting: int

    def answer_length(self, request: Request) -> int:
        """Most tokens that the answer to a request can have."""
        room = self.context_length - len(request.prompt)
        return room if request.max_tokens is None else min(request.max_tokens, room)

    def check(self, request: Request) -> None:
        """Refuse what cannot be answered as it is asked.

        Raises:
            RequestError: which value is wrong, and what would be right; never text of the prompt.
        """
        self._check_prompt(request)
        sampling = request.sampling
        _require(
            sampling.temperature == 0 or LEAST_TEMPERATURE <= sampling.temperature <= MOST_TEMPERATURE,
            f"temperature is {sampling.temperature}; it must be 0, or from {LEAST_TEMPERATURE} to {MOST_TEMPERATURE:g}",
        )
        _require(0 < sampling.top_p <= 1, f"top_p is {sampling.top_p}; it must be above 0 and at most 1")
        _require(sampling.top_k >= 0, f"top_k is {sampling.top_k}; it must be 0 (all tokens) or more")
        top = request.logprobs or 0
        _require(0 <= top <= MOST_TOP_LOGPROBS, f"logprobs is {top}; it must be from 0 to {MOST_TOP_LOGPROBS}")
        _require(
            len(request.stop) <= MOST_STOP_STRINGS and all(0 < len(one) <= LONGEST_STOP_STRING for one in request.stop),
            f"stop must be at most {MOST_STOP_STRINGS} strings of 1 to {LONGEST_STOP_STRING} characters",
        )

    def _check_prompt(self, request: Request) -> None:
        length, most = len(request.prompt), request.max_tokens
        _require(length > 0, "the prompt is empty; it must have at least one token")
        _require(
            0 <= min(request.prompt) <= max(request.prompt) < self.vocabulary,
            f"the prompt has a token id that the model has not; ids are from 0 to {self.vocabulary - 1}",
        )
        least = 0 if request.echo else 1
        _require(most is None or most >= least, f"max_tokens is {most}; it must be at least {least}")
        _require(
            length + (least if most is None else most) <= self.context_length,
            f"the prompt has {length} tokens, and with {'an answer' if most is None else f'max_tokens = {most}'} more"
            f" than the {self.context_length} that this engine takes",
        )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RequestError(otherwise)
