"""`flock-ray chat`: talk to what a run trained."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

from flock_ray.commands.settings import ChatSettings, read_settings
from flock_ray.commands.trained import load_trained
from flock_ray.errors import DataError
from flock_ray.telemetry.text import printable, spoken
from flock_ray.training.generation import Generator, Sampling

HELP = """\
/base         answer the last message once more, without the adapter
/base TEXT    answer TEXT with the adapter, and without it
/history      the conversation so far
/reset        begin a new conversation
/help         these lines
/exit         end; so does the end of the input"""


class Conversation:
    """What is said, in turn, until the input ends."""

    def __init__(self, generator: Generator, how: Sampling, system: str, output: TextIO) -> None:
        """Begin; `system` may be empty."""
        self._generator, self._how, self._output = generator, how, output
        self._first = [{"role": "system", "content": system}] if system else []
        self._turns = list(self._first)

    def take(self, line: str) -> bool:
        """Do what a line asks for; whether to go on."""
        word, _, rest = line.strip().partition(" ")
        if word == "/exit":
            return False
        if word == "/help":
            self._say(HELP)
        elif word == "/reset":
            self._turns = list(self._first)
            self._say("A new conversation.")
        elif word == "/history":
            for turn in self._turns:
                self._say(f"{turn['role']}: {turn['content']}")
        elif word == "/base":
            self._compare(rest.strip())
        elif word.startswith("/"):
            self._say(f"There is no {printable(word)}.\n{HELP}")
        elif word:
            self._ask(line.strip())
        return True

    def _ask(self, text: str, label: str = "") -> None:
        asked = [*self._turns, {"role": "user", "content": text}]
        answer = self._answer(asked, True, label)
        if answer is not None:
            self._turns = [*asked, {"role": "assistant", "content": answer}]

    def _compare(self, text: str) -> None:
        if text:
            self._ask(text, "adapter: ")
        asked = self._turns[:-1]
        if not asked or asked[-1]["role"] != "user":
            self._say("Nothing was asked yet.")
            return
        self._answer(asked, False, "base: ")

    def _answer(self, turns: list[dict[str, str]], adapted: bool, label: str) -> str | None:
        """The answer, shown as it comes; None where there is none, and why is shown."""
        self._output.write(label)
        try:
            answer = self._generator.answer(turns, self._how, adapted, self._emit)
        except DataError as error:
            self._say(f"{error}; /reset begins a new conversation")
            return None
        self._output.write("\n")
        self._output.flush()
        return answer

    def _emit(self, text: str) -> None:
        self._output.write(spoken(text))
        self._output.flush()

    def _say(self, text: str) -> None:
        self._emit(f"{text}\n")


def _lines() -> Iterator[str]:
    """What is typed, or piped in; with a line editor and its history on a terminal."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` uses it from then on
    with suppress(EOFError):
        while True:
            yield input("> ")


def chat(asked: Namespace) -> None:
    """Load a run's model and answer line by line."""
    settings = read_settings(ChatSettings, asked.settings)
    how = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed)
    trained = load_trained(settings.run, settings.threads)
    generator = Generator(trained.base, trained.spec, trained.adapter)
    if sys.stdin.isatty():
        print(f"{trained.base.name} with the adapter of {settings.run}; /help tells what else there is.", flush=True)
    conversation = Conversation(generator, how, settings.system, sys.stdout)
    for line in _lines():
        if not conversation.take(line):
            break
