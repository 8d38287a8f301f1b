"""Counts that a process which reads data may tell others of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RowCounts:
    """What became of a silo's rows.

    Attributes:
        read: all rows, the bad ones too.
        bad: that could not be read, and were skipped.
        dropped: of which no token is learned: nobody answers, or only beyond `sequence_length`.
        cut: kept, and cut to `sequence_length`.
        rewritten: kept, without white space or earlier thoughts that the chat template leaves out.
        target_tokens: that the kept rows predict, held-out ones included.
    """

    read: int = 0
    bad: int = 0
    dropped: int = 0
    cut: int = 0
    rewritten: int = 0
    target_tokens: int = 0

    @property
    def told(self) -> str:
        """The counts for people, those that are zero left out."""
        others = {name: getattr(self, name) for name in ("bad", "dropped", "cut", "rewritten")}
        kinds = "".join(f", {count} {name}" for name, count in others.items() if count)
        return f"{self.read} rows{kinds}, {self.target_tokens} tokens to learn"
