"""From tokens to text as it comes: no character is torn, and nothing of a stop string gets out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What decoding gives for bytes that are no whole character, perhaps not yet."""

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """The text of tokens one by one: all that `push` and `flush` return is the text of all tokens decoded at once.

    Tokens are decoded with those before them, since some tokenizers write a word's first token otherwise at the start.
    A character whose bytes lie in several tokens is held back until its last one.
    """

    def __init__(self, decode: Decode) -> None:
        """`decode` is the tokenizer's."""
        self._decode = decode
        self._before: list[int] = []
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain now."""
        self._held.append(token)
        text = self._text(self._held)
        if not text.endswith(UNFINISHED):
            return self._hand_on(len(self._held), text)
        # Not UTF-8 at all, perhaps: what the last tokens cannot change any more goes out.
        for size in range(len(self._held) - 1, 0, -1):
            first = self._text(self._held[:size])
            if first + self._decode(self._held[size:]) == text:
                return self._hand_on(size, first)
        return ""

    def flush(self) -> str:
        """What is held back, as it is; nothing comes after it."""
        return self._hand_on(len(self._held), self._text(self._held))

    def _text(self, tokens: Sequence[int]) -> str:
        known = self._decode(self._before)
        return self._decode([*self._before, *tokens])[len(known) :]

    def _hand_on(self, size: int, text: str) -> str:
        if size:
            self._before, self._held = self._held[:size], self._held[size:]
        return text


class StopStrings:
    """Lets text through up to the first stop string, wherever tokens have their borders."""

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` are not empty strings."""
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is certain to be no part of a stop string; `stopped` is true after one was met."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._take(min(places))
        longest = max(
            (size for stop in self._stops for size in range(1, len(stop)) if self._held.endswith(stop[:size])),
            default=0,
        )
        return self._take(len(self._held) - longest)

    def flush(self) -> str:
        """What is held back, unless a stop string was met."""
        return "" if self.stopped else self._take(len(self._held))

    def _take(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text
