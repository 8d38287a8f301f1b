from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.errors import RunDirectoryError, SweepError
from flock_ray.sweeps.point import PointFolder, State
from flock_ray.sweeps.window import Window
from tests.sweeps.points import ENDS, begin_run, end_run, folder_of


@dataclass
class Run:
    """A run that ends in some way after so many looks at it."""

    folder: PointFolder
    end: str
    looks: int
    interrupted: bool = False
    killed: bool = False

    def poll(self) -> int | None:
        if self.killed:
            return 137
        self.looks -= 1
        if self.looks > 0:
            return None
        end = "interrupted" if self.interrupted else self.end
        if end == "whole":
            end_run(self.folder)
        return ENDS[end]

    def interrupt(self) -> None:
        self.interrupted = True

    def kill(self) -> None:
        self.killed = True


@dataclass
class Script:
    """Starts runs that end as they are told to, and notes what is started; time is counted in looks."""

    ends: dict[str, tuple[str, int]]
    held: dict[str, int] = field(default_factory=dict)
    pause: float = 1.0
    started: list[str] = field(default_factory=list)
    running: dict[int, Run] = field(default_factory=dict)
    most: int = 0
    now: float = 0.0

    def start(self, folder: PointFolder, slot: int) -> Run | None:
        if self.held.get(folder.name, 0) > 0:
            self.held[folder.name] -= 1
            return None
        assert slot not in self.active(), "two runs have one place"
        self.started.append(folder.name)
        folder.begins()
        begin_run(folder)
        self.running[slot] = Run(folder, *self.ends[folder.name])
        self.most = max(self.most, len(self.active()))
        return self.running[slot]

    def active(self) -> dict[int, Run]:
        return {slot: run for slot, run in self.running.items() if run.looks > 0 and not run.killed}

    def wait(self, seconds: float) -> None:
        self.now += seconds


def play(script: Script, folders: Sequence[PointFolder], size: int, **options: Any) -> list[str]:
    lines: list[str] = []
    wait = options.pop("wait", script.wait)
    window = Window(
        script, size, lines.append, lambda folder: "", clock=lambda: script.now, wait=wait,
        **{"free_bytes": lambda folder: 1 << 60, **options},
    )  # fmt: skip
    try:
        window.play(folders)
    finally:
        script.lines = lines  # type: ignore[attr-defined]
    return lines


@given(
    st.lists(st.tuples(st.sampled_from(("whole", "failed")), st.integers(1, 5), st.integers(0, 2)), max_size=8),
    st.integers(1, 4),
    st.booleans(),
)
def test_every_point_is_played_once_and_no_more_than_the_window_at_a_time(
    chosen: list[tuple[str, int, int]], size: int, fail_fast: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folders = [folder_of(Path(name), number) for number in range(len(chosen))]
        ends = {folder.name: (end, looks) for folder, (end, looks, _) in zip(folders, chosen, strict=True)}
        held = {folder.name: times for folder, (_, _, times) in zip(folders, chosen, strict=True)}
        script = Script(ends, held)
        play(script, folders, size, fail_fast=fail_fast)
        assert len(script.started) == len(set(script.started)) and script.most <= size
        for folder in folders:
            wanted = State(ends[folder.name][0]) if folder.name in script.started else State.new
            assert folder.state is wanted
        failed = any(ends[name][0] == "failed" for name in script.started)
        assert len(script.started) == len(folders) or (fail_fast and failed)


def test_the_order_is_kept_and_told_with_the_time_that_is_left(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, number) for number in range(3)]
    script = Script({folder.name: ("whole", 4) for folder in folders})
    begin_run(folders[1])
    lines = play(script, folders, 1)
    assert script.started == [folder.name for folder in folders]
    assert lines == [
        "started  seed=0", "whole    seed=0: 4.0 s; 1 of 3 ended, about 8.0 s left",
        "resumed  seed=1", "whole    seed=1: 4.0 s; 2 of 3 ended, about 4.0 s left",
        "started  seed=2", "whole    seed=2: 4.0 s; 3 of 3 ended",
    ]  # fmt: skip


def test_a_failure_stops_nothing_unless_asked(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, number) for number in range(4)]
    ends = {folder.name: ("whole", 3) for folder in folders} | {folders[0].name: ("failed", 1)}
    lines = play(Script(ends), folders[:3], 1)
    assert "FAILED with exit code 21 seed=0: 1.0 s; 1 of 3 ended (1 failed)" in lines
    assert [folder.state for folder in folders[:3]] == [State.failed, State.whole, State.whole]
    again = [folder_of(tmp_path / "again", number) for number in range(4)]
    script = Script(ends)
    play(script, again, 2, fail_fast=True)
    assert script.started == [again[0].name, again[1].name]  # the second one came to its end
    assert [folder.state for folder in again] == [State.failed, State.whole, State.new, State.new]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_all_runs_and_waits_for_them(tmp_path: Path, number: signal.Signals) -> None:
    folders = [folder_of(tmp_path, place) for place in range(3)]
    script = Script({folder.name: ("whole", 5) for folder in folders})

    def wait(seconds: float) -> None:
        script.wait(seconds)
        if script.now == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        play(script, folders, 2, wait=wait)
    assert [folder.state for folder in folders] == [State.begun, State.begun, State.new]
    assert len(script.started) == 2 and signal.getsignal(number) is before
    assert "stopping 2 run(s); the same command resumes them; Ctrl-C again kills them" in script.lines  # type: ignore[attr-defined]
    again = Script({folder.name: ("whole", 1) for folder in folders})
    play(again, folders, 2)
    assert {folder.state for folder in folders} == {State.whole}


def test_a_second_signal_kills(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, place) for place in range(2)]
    script = Script({folder.name: ("whole", 1_000) for folder in folders})

    def wait(seconds: float) -> None:
        script.wait(seconds)
        if script.now in (2, 4):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        play(script, folders, 2, wait=wait)
    assert script.now == 5 and all(run.killed for run in script.running.values())
    assert [folder.state for folder in folders] == [State.begun, State.begun]  # killed by us: no failure


def test_no_point_starts_on_a_full_disk(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, place) for place in range(3)]
    script = Script({folder.name: ("whole", 2) for folder in folders})
    with pytest.raises(RunDirectoryError, match=r"3 MB are free, and a point of this sweep takes 2 MB; free some"):
        play(script, folders, 2, largest=2_000_000, free_bytes=lambda folder: 3_000_000)
    assert [folder.state for folder in folders] == [State.whole, State.new, State.new]


def test_no_point_starts_with_code_that_was_changed(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path, place) for place in range(3)]
    script = Script({folder.name: ("whole", 2) for folder in folders})
    with pytest.raises(SweepError, match="the code was changed since the sweep began"):
        play(script, folders, 1, unchanged=lambda: script.now < 1)
    assert [folder.state for folder in folders] == [State.whole, State.new, State.new]
