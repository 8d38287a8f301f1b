from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest

from flock_ray.telemetry.progress import INTERVAL
from flock_ray.telemetry.table import PLAIN_WIDTH, Console
from flock_ray.telemetry.views import EpochView, MemberTotal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(console: Console, epochs: list[EpochView], members: list[MemberTotal]) -> None:
    with console:
        console.plan("node 0: hosts 0 1\nnode 1: hosts 2 3")
        for view in epochs:
            for done in range(5):
                console.progress("train", done, 4)
            console.epoch(view, len(epochs))
            console.epoch_settled(view.epoch, view.settlement_tx or "", view.gas_used or 0)
        console.members(members)


def test_elsewhere_than_on_a_terminal_lines_are_plain_and_fit(
    epochs: list[EpochView], members: list[MemberTotal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    file = io.StringIO()
    run(Console(file), epochs, members)
    text = file.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    tables = [line for line in text.splitlines() if re.match(r"\d  ", line)]
    assert len(tables) == 4 * 8
    assert all(len(line) <= PLAIN_WIDTH for line in tables)
    assert re.search(r"3  xml \(adversary\)  proposer  3\.020 -> 2\.\d{3}  -0\.3100  harmful +-300\.00", text)
    assert "overhead 2.4 s; trained 1,234 tokens/s, MFU 52%" in text
    assert "7 of 7 honest members end with more" in text
    assert (
        "epoch 2 settled: transaction 0x4bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459a, gas 265,310"
        in text
    )


def test_a_narrow_terminal_cuts_no_amount(
    epochs: list[EpochView], members: list[MemberTotal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm-256color")
    file = Terminal()
    run(Console(file), epochs, members)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "3,228.99  +128.99" in text
    assert "…" not in text
    assert "\x1b[" in file.getvalue()
    assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h"), "the cursor is back"


def test_progress_lines_come_at_the_start_at_the_end_and_now_and_then() -> None:
    file, clock = io.StringIO(), Clock()
    console = Console(file, clock)
    for done in range(9):
        console.progress("train", done, 8)
        clock.now += INTERVAL / 2
    console.progress("score", 0, 2)
    lines = file.getvalue().splitlines()
    assert lines == ["train: 0 of 8", "train: 2 of 8, 15 s", "train: 4 of 8, 30 s", "train: 6 of 8, 45 s",
                     "train: 8 of 8, 60 s", "score: 0 of 2"]  # fmt: skip


def test_an_epoch_without_ballots_chain_or_losses_still_prints(epochs: list[EpochView]) -> None:
    bare = replace(
        epochs[0],
        members=tuple(
            replace(m, loss_before=None, loss_after=None, score=None, status=None) for m in epochs[0].members
        ),
        accepted=False,
        candidate_score=None,
        band=None,
        wall_seconds={},
        training=None,
    )
    file = io.StringIO()
    Console(file).epoch(bare, 3)
    assert "epoch 1 of 3: rejected\n" in file.getvalue()
    assert "time: not measured" in file.getvalue()


def test_names_and_messages_cannot_drive_the_terminal_or_be_read_as_markup(epochs: list[EpochView]) -> None:
    hostile = replace(epochs[0].members[0], silo="\x1b[2J[red]x[/red]")
    file = io.StringIO()
    console = Console(file)
    console.epoch(replace(epochs[0], members=(hostile,)), 1)
    console.line("\x1b[2J[bold]y")
    assert "\x1b" not in file.getvalue()
    assert "?[2J[red]x[/red]" in file.getvalue()
    assert "?[2J[bold]y" in file.getvalue()
