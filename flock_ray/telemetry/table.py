"""The run on the terminal: a table an epoch, progress inside long phases, a table of members at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TextIO

from rich import box, console
from rich.table import Table
from rich.text import Text

from flock_ray.telemetry import text
from flock_ray.telemetry.progress import Progress, ProgressBar, ProgressLines
from flock_ray.telemetry.views import PHASES, EpochView, MemberEpoch, MemberTotal, honest_with_more

PLAIN_WIDTH = 120
MAX_ROWS = 64  # of an epoch's table: laying out a thousand takes a second


class Console:
    """Prints to a terminal with colour and a transient bar, to anything else as plain lines of `PLAIN_WIDTH`."""

    def __init__(self, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        file = file or sys.stdout
        terminal = file.isatty()
        self._rich = console.Console(
            file=file,
            force_terminal=terminal,
            color_system="auto" if terminal else None,
            width=None if terminal else PLAIN_WIDTH,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
        )
        self._progress: Progress = ProgressBar(self._rich) if terminal else ProgressLines(self.line, clock)

    def line(self, message: str) -> None:
        """One line of text, or several; a long one is left to the terminal to wrap."""
        self._rich.print("\n".join(text.printable(part) for part in message.splitlines()), soft_wrap=True)

    def plan(self, placement: str) -> None:
        """The placement plan, before anything is launched."""
        self.line(placement)

    def progress(self, phase: str, done: int, total: int) -> None:
        """Where a long phase is; the first call of a phase opens it, `done == total` or another phase closes it."""
        self._progress.update(phase, done, total)

    def epoch(self, view: EpochView, num_epochs: int) -> None:
        """The table of one epoch; its settlement follows with `epoch_settled`, since it may come an epoch later."""
        self._progress.close()
        self._rich.print()
        self._rich.print(_epoch_title(view, num_epochs), soft_wrap=True)
        table = _table("#", "silo", "role", "loss", "score", "verdict", "reward", "slashed")
        for member in view.members[:MAX_ROWS]:
            table.add_row(*_epoch_row(member))
        self._print_table(table)
        if len(view.members) > MAX_ROWS:
            self.line(f"and {len(view.members) - MAX_ROWS} more members, all of them in summary.json at the end")
        for note in (text.fees(view.fees), text.voiceless(view.voiceless)):
            if note:
                self.line(note)
        self.line(_time_line(view))

    def epoch_settled(self, epoch: int, tx: str, gas: int) -> None:
        """The settlement of an epoch, when its receipt is there."""
        self.line(f"epoch {epoch} settled: transaction {tx}, gas {gas:,}")

    def members(self, totals: Sequence[MemberTotal]) -> None:
        """The table of members at the end of the run, amounts in tokens."""
        self._progress.close()
        self._rich.print()
        self._rich.print(Text("members", style="bold"))
        table = _table(
            "#", "silo", "data", "proposer", "voter", "mean score", "earned", "slashed", "stake", "end", "change"
        )
        for member in totals[:MAX_ROWS]:
            table.add_row(*_member_row(member))
        self._print_table(table)
        if len(totals) > MAX_ROWS:
            self.line(f"and {len(totals) - MAX_ROWS} more members, all of them in summary.json")
        with_more, num_honest = honest_with_more(totals)
        self.line(f"{with_more} of {num_honest} honest members end with more than they started with")
        self.line(
            "(data: tokens of text; score: nats a token; end: wallet + stake + claimable; change: since the start)"
        )

    def rows(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of texts; a column of numbers only is aligned to the right."""
        self._rich.print()
        self._rich.print(Text(title, style="bold"))
        values = zip(*rows, strict=True)
        words = [column for column, cells in zip(columns, values, strict=True) if not all(map(_is_number, cells))]
        table = _table(*columns, left=words)
        for row in rows:
            table.add_row(*map(Text, row))
        self._print_table(table)

    def _print_table(self, table: Table) -> None:
        # A narrow terminal wraps whole lines: better than amounts with their last digits cut off.
        table.width = self._rich.measure(table, options=self._rich.options.update(max_width=1000)).maximum
        self._rich.print(table, crop=False, soft_wrap=True)

    def close(self) -> None:
        """Take the progress bar off the screen."""
        self._progress.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(".", "", 1).isdigit()


def _table(*columns: str, left: Sequence[str] = ("silo", "role", "verdict")) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    return table


def _epoch_title(view: EpochView, num_epochs: int) -> Text:
    title = Text(f"epoch {view.epoch} of {num_epochs}: ", style="bold")
    title.append("accepted" if view.accepted else "rejected", style="green" if view.accepted else "red")
    before, after = view.honest_loss_before, view.honest_loss_after
    if before is not None and after is not None:
        change = text.percent(before, after)
        title.append(
            f"  mean loss of honest silos {text.loss(before)} -> {text.loss(after)} ({change})", style="not bold"
        )
    if view.candidate_score is not None:
        title.append(f"  candidate {text.score(view.candidate_score)}{text.at_step(view.step)}", style="not bold")
    if view.band is not None:
        title.append(f"  band {view.band / 1e6:.4f}", style="not bold")
    return title


def _epoch_row(member: MemberEpoch) -> list[Text]:
    losses = f"{text.loss(member.loss_before, 3)} -> {text.loss(member.loss_after, 3)}"
    return [
        Text(str(member.index)),
        _silo(member),
        Text(member.role, style="" if member.role != "observer" else "dim"),
        Text(losses if losses != "- -> -" else "-"),
        Text(text.score(member.score) if member.score is not None else ""),
        _verdict(member),
        _amount(member.reward),
        _amount(-member.slashed),
    ]


def _member_row(member: MemberTotal) -> list[Text]:
    return [
        Text(str(member.index)),
        _silo(member),
        Text(f"{member.num_tokens:,}"),
        Text(str(member.times_proposer)),
        Text(str(member.times_voter)),
        Text(text.score(member.mean_score) if member.mean_score is not None else ""),
        _amount(member.earned),
        _amount(-member.slashed),
        Text(text.tokens(member.stake)),
        Text(text.tokens(member.balance_end)),
        Text(text.tokens(member.gain, signed=True), style="green" if member.gain > 0 else "red" if member.gain else ""),
    ]


def _verdict(member: MemberEpoch) -> Text:
    style = "green" if member.status == "accepted" else "bold red" if member.cheated else "yellow"
    return Text(member.status or "", style=style)


def _silo(member: MemberEpoch | MemberTotal) -> Text:
    name = Text(text.printable(member.silo))
    return name.append(" (adversary)", style="red") if member.adversary else name


def _amount(wei: int) -> Text:
    return Text(text.tokens(wei, signed=True), style="green" if wei > 0 else "red") if wei else Text("")


def _time_line(view: EpochView) -> str:
    split = [f"{phase} {text.seconds(view.wall_seconds[phase])}" for phase in PHASES if view.wall_seconds.get(phase)]
    rate = view.training
    speed = f"; trained {rate.tokens_per_second:,.0f} tokens/s, MFU {rate.mfu:.0%}" if rate else ""
    return f"time: {', '.join(split) or 'not measured'}{speed}"
