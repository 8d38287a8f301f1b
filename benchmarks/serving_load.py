"""Users of an engine: what they ask, when, and what became of it."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.peers.peft_serving import Asked
from flock_ray.serving.engine import Engine
from flock_ray.serving.request import Request
from flock_ray.serving.stream import Finished, Token

LAST = 10_000  # ids of prompts are below it


@dataclass(frozen=True)
class Cell:
    """A load: adapters that are asked for, users at the same time, tokens of a prompt."""

    adapters: int
    users: int
    prompt: int

    @property
    def name(self) -> str:
        """For people and headlines."""
        return f"{self.adapters}x{self.users}" + ("" if self.prompt == 64 else f"_{self.prompt}")


@dataclass
class Played:
    """What a turn took, and what came of it."""

    seconds: float
    cpu_seconds: float
    tokens: int
    first_token_ms: list[float] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)


def without_answers(played: Played) -> dict[str, Any]:
    """For a result file."""
    return {name: value for name, value in asdict(played).items() if name != "answers"}


def drawn(cell: Cell, number: int, seed: int, ids: int = LAST) -> list[Asked]:
    """Requests: random prompts of token ids below `ids`, adapters by Zipf's law."""
    stream = random.Random(seed)
    weights = [1 / rank for rank in range(1, cell.adapters + 1)]

    def one() -> Asked:
        [adapter] = stream.choices(range(cell.adapters), weights)
        return tuple(stream.randrange(3, ids) for _ in range(cell.prompt)), adapter

    return [one() for _ in range(number)]


class Driver:
    """Users of an engine."""

    def __init__(self, engine: Engine, hashes: Sequence[bytes], answer: int) -> None:
        self._engine, self._hashes, self._answer = engine, hashes, answer

    def closed(self, asked: Sequence[Asked], users: int, adapted: bool = True) -> Played:
        """So many users, each of whom asks again once it is answered."""
        left = iter(enumerate(asked))
        lock = threading.Lock()

        def user(played: Played) -> None:
            while True:
                with lock:
                    number, one = next(left, (-1, None))
                if one is None:
                    return
                self._ask(number, one, adapted, played)

        return self._play([user] * users, len(asked))

    def open(self, asked: Sequence[Asked], rate: float, seed: int) -> Played:
        """Requests at random moments, so many a second on average."""
        stream, moment = random.Random(seed), 0.0
        users: list[Callable[[Played], None]] = []
        for number, one in enumerate(asked):
            moment += stream.expovariate(rate)

            def user(played: Played, number: int = number, one: Asked = one, wait: float = moment) -> None:
                time.sleep(wait)
                self._ask(number, one, True, played)

            users.append(user)
        return self._play(users, len(asked))

    def _play(self, users: Iterable[Callable[[Played], None]], number: int) -> Played:
        gc.collect()
        played = Played(0.0, 0.0, 0, [0.0] * number, [[] for _ in range(number)])
        threads = [threading.Thread(target=user, args=(played,)) for user in users]
        cpu, wall = time.process_time(), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        played.seconds, played.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        played.tokens = sum(map(len, played.answers))
        return played

    def _ask(self, number: int, one: Asked, adapted: bool, played: Played) -> None:
        prompt, adapter = one
        key = self._hashes[adapter] if adapted and adapter is not None else None
        began = time.perf_counter()
        request = Request(prompt, key, self._answer, tenant=str(number), ignore_end=True)
        for event in self._engine.submit(request):
            if isinstance(event, Token):
                if not played.answers[number]:
                    played.first_token_ms[number] = 1e3 * (time.perf_counter() - began)
                played.answers[number].append(event.id)
            else:
                assert isinstance(event, Finished) and not event.error, event


def speed(rounds: Sequence[Played]) -> float:
    """Tokens a second, of the median round."""
    return median(one.tokens / one.seconds for one in rounds)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share reaches at most."""
    return sorted(values)[max(0, -(-int(len(values) * share * 1e6) // 10**6) - 1)]
