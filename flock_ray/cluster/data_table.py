"""What became of the rows of silos, for people."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.telemetry.table import MAX_ROWS, Console
from flock_ray.telemetry.text import printable
from flock_ray.training.counts import RowCounts

COLUMNS = ("#", "silo", "rows", "cut", "dropped", "bad", "rewritten", "tokens to learn")


def show_rows(console: Console, silos: Sequence[tuple[int, str, RowCounts]], length: int) -> None:
    """A table of (number, name, counts) of silos; nothing where there are none.

    Args:
        console: where to.
        silos: in rising order.
        length: tokens that longer rows were cut to.
    """
    if not silos:
        return
    shown = [
        (str(number), printable(name), *map(str, (c.read, c.cut, c.dropped, c.bad, c.rewritten, c.target_tokens)))
        for number, name, c in silos[:MAX_ROWS]
    ]
    console.rows("data", COLUMNS, shown)
    if len(silos) > MAX_ROWS:
        console.line(f"and {len(silos) - MAX_ROWS} more silos")
    console.line(
        f"(cut: to {length} tokens; dropped: no token to learn; bad: cannot be read; rewritten: the chat template"
        " leaves out white space or earlier thoughts)"
    )
